//! An endpoint is ready when it is in the maps. One on the kernel path works and is not ready: see `fault_points`.

use serde_json::json;

use crate::setup::{Single, ok};

/// IPsec policies remove VTEPs from the maps, not local ports.
#[test]
fn endpoint_is_added_while_ipsec_policies_exist() {
    let single = Single::start();
    single.json(&["network", "create", "blue"]);
    let host = single.lab.host(1);
    host.run(&["ip", "xfrm", "policy", "add", "dst", "192.168.1.10/32", "dir", "out", "action", "allow"]);
    let one = ok(&single.add("blue", "one", "gindemo1", &[]));
    assert_eq!(one["ready"], json!(true));
    assert_eq!((single.tables().ports.len(), single.tables().fdb.len()), (1, 1));
}
