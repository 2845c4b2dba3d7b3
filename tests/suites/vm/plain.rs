//! The Swarm by itself.
use overlay_tests::lab::swarm::Swarm;

#[test]
fn up() {
    let start = std::time::Instant::now();
    let swarm = Swarm::up(2).unwrap();
    println!("up after {:?}", start.elapsed());
    swarm.network("n", "10.0.1.0/24", &[]).unwrap();
    swarm.container(1, "c1", "n", [10, 0, 1, 2].into()).unwrap();
    swarm.container(2, "c2", "n", [10, 0, 1, 6].into()).unwrap();
    println!("containers after {:?}", start.elapsed());
    println!("{}", swarm.node(1).docker(&["node", "ls"]).unwrap());
    drop(swarm);
    println!("down after {:?}", start.elapsed());
}
