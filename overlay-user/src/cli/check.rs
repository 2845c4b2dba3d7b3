//! `overlay check`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Pins, UsageError, output};
use crate::{
    daemon::{self, DaemonError, Missing, PreflightError},
    kernel::Host,
    model::{View, counted},
    sources::file,
};

#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// Configuration file of the cluster, in TOML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pins: Pins,
}

pub(super) async fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let cluster = match file::load(&args.config) {
        Ok(cluster) => cluster,
        Err(errors) => {
            if args.json {
                let list: Vec<_> = errors
                    .errors()
                    .iter()
                    .map(|e| json!({ "line": e.line, "object": e.finding.object, "problem": e.finding.reason() }))
                    .collect();
                output::json(&json!({ "ok": false, "file": errors.file(), "errors": list }))?;
            }
            return Err(UsageError(errors.to_string()).into());
        }
    };
    let snapshot = Host::open()?.snapshot();
    let host = match daemon::check(&snapshot, &cluster, &args.pins.pin_root, &|_| Missing::Refused).await {
        Ok(preflight) => Some(preflight),
        // On other hosts only the rules can be checked; a file with [discover] alone has no hosts.
        Err(DaemonError::Preflight(PreflightError::NotAHost(_))) => None,
        Err(error) => {
            if args.json {
                let problem = json!({ "line": null, "object": "this host", "problem": error.to_string() });
                output::json(&json!({ "ok": false, "file": args.config, "errors": [problem] }))?;
            }
            return Err(UsageError(error.to_string()).into());
        }
    };
    let here = host.as_ref().map(|preflight| &preflight.view);
    let networks = here.into_iter().flat_map(View::networks).map(|(_, network)| network.network().clone());
    let mut warnings = daemon::rule_findings(networks).await;
    if let Some(preflight) = &host {
        warnings.extend(daemon::device_findings(&snapshot, &preflight.view, &preflight.underlay).await?);
    }
    if args.json {
        return output::json(&json!({
            "ok": true,
            "file": args.config,
            "hosts": cluster.hosts.len(),
            "networks": cluster.networks.len(),
            "endpoints": cluster.endpoints.len(),
            "host": here.map(|view| &view.host().name),
            "host_networks": here.map(|view| view.networks().len()),
            "errors": [],
            "warnings": warnings,
        }));
    }
    output::warnings(&warnings);
    let fits = match host {
        Some(preflight) => format!(
            "this host is {} ({} on {}), with endpoints in {}",
            preflight.view.host().name,
            preflight.view.host().address,
            preflight.underlay.name,
            counted(preflight.view.networks().len(), "network")
        ),
        None if cluster.is_discovery_only() => "external networks are accelerated on every host".to_owned(),
        None => "this host is not one of the hosts in the file; only its rules are checked".to_owned(),
    };
    Ok(output::print(&format!(
        "{}: {}, {}, {}\n{fits}\n",
        args.config.display(),
        counted(cluster.hosts.len(), "host"),
        counted(cluster.networks.len(), "network"),
        counted(cluster.endpoints.len(), "endpoint")
    ))?)
}
