//! `overlay down`.

use tracing::info;

use super::{Common, output};

pub(super) async fn down(args: &Common) -> anyhow::Result<()> {
    crate::daemon::down(&args.pins.pin_root).await?;
    if args.json {
        return output::json(&serde_json::json!({ "removed": args.pins.pin_root }));
    }
    info!("removed {}", args.pins.pin_root.display());
    Ok(())
}
