//! Docker removes a network's sandbox with the last container of a node, and creates it again with the next one: the
//! daemon does not keep it.

use super::setup::{Accelerated, NETWORK, until};

const ROUNDS: usize = 3;

#[test]
fn sandboxes_are_recreated_at_once_and_daemon_keeps_none() {
    let setup = Accelerated::start(3, &[1, 2, 3]);
    let swarm = &setup.swarm;
    // The only container of the node. Docker uses names, addresses and VNIs again.
    let node = swarm.node(3);
    let namespaces = || node.host().run(&["ip", "netns", "list-id"]).lines().count();
    let before = namespaces();
    for round in 0..ROUNDS {
        swarm.network("second", "10.0.2.0/24", &[]).unwrap();
        swarm.container(3, "recreated", NETWORK, [10, 0, 1, 30].into()).unwrap();
        for verb in ["connect", "disconnect", "connect"] {
            node.docker(&["network", verb, "second", "recreated"]).unwrap();
        }
        assert!(namespaces() > before + 1 && swarm.attachments("second").unwrap() >= 1, "round {round}");
        node.docker(&["rm", "--force", "recreated"]).unwrap();
        swarm.remove_network("second").unwrap();
        // A namespace that is still referenced keeps its id. The node's own namespace may get one, too.
        until("the namespaces are removed", || namespaces() <= before + 1);
    }
}
