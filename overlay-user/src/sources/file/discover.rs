//! The values of the table `[discover]`.

use std::{collections::BTreeSet, path::PathBuf};

use toml::de::DeValue;

use super::{
    error::wrong_value,
    table::{str, text, type_error, vni},
};
use crate::model::{
    Finding,
    discovery::{DOCKER_SOCKET, Selector, has_docker_client},
    rule::Field,
};

/// `"auto"` (`None`: all devices), or names of VXLAN devices.
pub(super) fn devices(field: Field, value: &DeValue<'_>) -> Result<Option<BTreeSet<String>>, Finding> {
    let wanted = "\"auto\", or a list of VXLAN devices like [\"vxlan0\"]";
    match value {
        DeValue::String(name) if name.as_ref() == "auto" => Ok(None),
        DeValue::Array(names) => {
            names.iter().map(|name| text(field, name.get_ref())).collect::<Result<_, _>>().map(Some)
        }
        DeValue::String(name) => Err(wrong_value(field, name, "\"auto\"", wanted)),
        other => Err(type_error(field, other, wanted)),
    }
}

/// True, false, or the path of the socket; `None`: Docker's API is not used.
pub(super) fn docker(field: Field, value: &DeValue<'_>) -> Result<Option<PathBuf>, Finding> {
    let wanted = "true, false, or the path of Docker's socket";
    let socket = match value {
        DeValue::Boolean(on) => Ok(on.then(|| PathBuf::from(DOCKER_SOCKET))),
        DeValue::String(_) => absolute(field, value, wanted).map(Some),
        other => Err(type_error(field, other, wanted)),
    }?;
    if socket.is_some() && !has_docker_client() {
        let problem = format!("{field} is set, and this build of overlay has no Docker client");
        return Err(Finding::unnamed(problem, "remove the key, or use a build with the Cargo feature `docker`"));
    }
    Ok(socket)
}

/// An absolute path of a directory.
pub(super) fn directory(field: Field, value: &DeValue<'_>) -> Result<PathBuf, Finding> {
    absolute(field, value, "an absolute path like \"/var/run/docker/netns\"")
}

fn absolute(field: Field, value: &DeValue<'_>, wanted: &str) -> Result<PathBuf, Finding> {
    match str(field, value, wanted)? {
        path if path.starts_with('/') && !path.contains('\0') => Ok(path.into()),
        other => Err(wrong_value(field, other, "an absolute path", wanted)),
    }
}

/// VNIs and network names; the networks need not exist yet.
pub(super) fn selectors(field: Field, value: &DeValue<'_>) -> Result<BTreeSet<Selector>, Finding> {
    let wanted = "a list of VNIs and network names like [4097, \"my-overlay-network\"]";
    let DeValue::Array(elements) = value else { return Err(type_error(field, value, wanted)) };
    elements
        .iter()
        .map(|element| match element.get_ref() {
            DeValue::String(name) => Ok(Selector::Name(name.to_string())),
            number @ DeValue::Integer(_) => vni(field, number).map(Selector::Vni),
            other => Err(type_error(field, other, wanted)),
        })
        .collect()
}
