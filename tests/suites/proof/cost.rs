//! The cost of the proof for packets that the programs forward. Not a test: it prints figures.
//!
//! `cargo nextest run --profile full -p overlay-tests --features proof --test proof --run-ignored only --no-capture`

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use aya::programs::ProgramFd;
use overlay_common::names;
use overlay_tests::{
    frame::{Inner, L4, Station, Version},
    lab::{
        NIC, NetNs, PacketSocket,
        traffic::{Cpus, pin},
    },
    program::{
        Skb,
        kernel::{sk_buff, timed_run},
    },
    testbed::{GINDEMO1, GINDEMO2},
};

use super::setup::{World, interface};

/// Pairs of measurements.
const ROUNDS: usize = 15;
/// Pairs of measurements of datagrams, and datagrams of each.
const PAIRS: usize = 31;
const DATAGRAMS: u32 = 20_000;
/// Chunks of 64 KiB in one measurement of a stream.
const CHUNKS: usize = 4000;
/// Runs of a program in one measurement, each over a fresh packet.
const RUNS: usize = 3000;

/// Interleaved measurements: median, least and greatest of the values, and of the ratios or differences of the pairs.
fn report(title: &str, unit: &str, pairs: &[(f64, f64)]) {
    let summary = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        (values[values.len() / 2], values[0], values[values.len() - 1])
    };
    let (without, _, _) = summary(pairs.iter().map(|pair| pair.0).collect());
    let (with, _, _) = summary(pairs.iter().map(|pair| pair.1).collect());
    let ratio = summary(pairs.iter().map(|(a, b)| b / a).collect());
    let more = summary(pairs.iter().map(|(a, b)| b - a).collect());
    println!(
        "{title}: without {without:.1}, with {with:.1} {unit}; ratio {:.4} ({:.4} to {:.4}); difference {:.1} ({:.1} to \
         {:.1})",
        ratio.0, ratio.1, ratio.2, more.0, more.1, more.2
    );
}

/// Mean of the faster half of the runs, in ns.
fn run(host: &NetNs, program: &ProgramFd, packet: &[u8], ifindex: u32) -> (u32, f64) {
    host.enter(|| {
        pin(Cpus::two().client);
        let context = sk_buff(ifindex, Skb::default());
        let runs: Vec<_> = (0..RUNS).map(|_| timed_run(program, packet, &context, 1).unwrap()).collect();
        let mut times: Vec<_> = runs.iter().map(|(_, time)| time.as_nanos() as f64).collect();
        times.sort_by(f64::total_cmp);
        times.truncate(RUNS / 2);
        (runs[0].0, times.iter().sum::<f64>() / times.len() as f64)
    })
}

#[test]
#[ignore = "prints figures"]
fn run_time_of_programs() {
    let mut world = World::with_validity(Duration::from_secs(100_000));
    world.install();
    world.wait_until_proven();
    let to = Station::container(GINDEMO2.octets());
    let sent =
        Inner::new(Station::container(GINDEMO1.octets()), to, Version::V4, L4::Udp(40_000, 9)).l3_len(92).bytes();
    // What node02 sends is what node01 receives.
    let wire = PacketSocket::open(world.host(), NIC).unwrap();
    world.pings("gindemo1", 3);
    let mut received = Vec::new();
    wire.receive_until(Duration::from_millis(200), |frame| {
        if frame.len() > 90 && frame[23] == 17 && frame[73] == 1 {
            received = frame;
        }
        false
    })
    .unwrap();
    let port = world.port("gindemo1");
    let host: NetNs = (**world.host()).clone();
    let indices = [host.enter(|| interface(&port)), host.enter(|| interface(NIC))];
    for (name, packet, ifindex) in [(names::PORT_IN, &sent, indices[0]), (names::NIC_IN, &received, indices[1])] {
        let fds = [true, false].map(|is_ordinary| world.program(name, is_ordinary).fd().unwrap().try_clone().unwrap());
        for is_ordinary in [true, false] {
            let info = world.program(name, is_ordinary).info().unwrap();
            println!(
                "{name}, {}: {:?} instructions, {} bytes of machine code, {:?} verified",
                if is_ordinary { "without" } else { "with" },
                info.size_translated().map(|bytes| bytes / 8),
                info.size_jitted(),
                info.verified_instruction_count(),
            );
        }
        let mut pairs = Vec::new();
        for round in 0..ROUNDS {
            // Alternating order.
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            let mut pair = [0.0; 2];
            for which in order {
                let (verdict, time) = run(&host, &fds[which], packet, ifindex);
                assert_eq!(verdict, 7, "{name} redirects");
                pair[which] = time;
            }
            pairs.push((pair[0], pair[1]));
        }
        report(name, "ns", &pairs);
    }
    println!("forwarded while measuring: {:?}", world.counts());
}

/// CPU time of one datagram of 64 bytes, in ns: the system call that sends it includes everything up to the socket on
/// node02. Unlike the rate, it depends little on the other work of the machine.
fn send(world: &World) -> f64 {
    world.container("gindemo1").enter(|| {
        pin(Cpus::two().client);
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.connect((GINDEMO2, 9000)).unwrap();
        (0..100).for_each(|_| _ = socket.send(&[0; 64]));
        let start = thread_time();
        (0..DATAGRAMS).for_each(|_| _ = socket.send(&[0; 64]));
        (thread_time() - start).as_nanos() as f64 / f64::from(DATAGRAMS)
    })
}

/// CPU time of this thread.
fn thread_time() -> Duration {
    // SAFETY: the time is plain data, and the call writes it.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        assert_eq!(libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time), 0);
        time
    };
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

/// Interleaved measurements of two states of one world.
fn interleave(
    world: &mut World,
    states: [&dyn Fn(&mut World); 2],
    mut measure: impl FnMut(&mut World) -> f64,
) -> Vec<(f64, f64)> {
    let mut pairs = Vec::new();
    for round in 0..PAIRS {
        let mut pair = [0.0; 2];
        // Alternating order.
        for which in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            states[which](world);
            pair[which] = measure(world);
        }
        pairs.push((pair[0], pair[1]));
    }
    pairs
}

fn datagrams(title: &str, states: [&dyn Fn(&mut World); 2]) {
    let mut world = World::with_validity(Duration::from_secs(10));
    let to = world.testbed.first(2).clone();
    // Bound, so that node02 sends no ICMP; its queue is full.
    let receiver = to.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9000))).unwrap();
    let pairs = interleave(&mut world, states, |world| send(world));
    report(title, "ns of CPU time", &pairs);
    println!("{:?}", world.counts());
    drop(receiver);
}

/// The ordinary program and no exits.
fn plain(world: &mut World) {
    world.uninstall();
    world.close_window();
    world.detach_vxlan();
}

/// The program under test, the claim proven, the window open.
fn proven(world: &mut World) {
    world.install();
    world.attach_vxlan();
    world.open_window();
    world.wait_until_proven();
}

#[test]
#[ignore = "prints figures"]
fn datagrams_of_two_programs() {
    datagrams("UDP 64 B, the same program twice", [&plain, &plain]);
    let exit = |world: &mut World| {
        plain(world);
        world.attach_vxlan();
    };
    datagrams("UDP 64 B, exit at the VXLAN device, ordinary program", [&plain, &exit]);
    let closed = |world: &mut World| {
        proven(world);
        world.close_window();
    };
    datagrams("UDP 64 B, proof, window closed", [&plain, &closed]);
    datagrams("UDP 64 B, proof, window open all the time", [&plain, &proven]);
}

/// CPU time of the sender of a stream, in ns per KiB.
#[test]
#[ignore = "prints figures"]
fn stream_of_two_programs() {
    const CHUNK: usize = 64 << 10;
    let mut world = World::with_validity(Duration::from_secs(10));
    let listener = world.testbed.first(2).enter(|| TcpListener::bind((GINDEMO2, 9001))).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(Cpus::two().server);
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = vec![0; CHUNK];
            while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
        });
        let mut stream = world.container("gindemo1").enter(|| TcpStream::connect((GINDEMO2, 9001))).unwrap();
        let cpus = Cpus::two();
        let mut send = |chunks: usize| {
            let start = thread_time();
            (0..chunks).for_each(|_| stream.write_all(&[0; CHUNK]).unwrap());
            (thread_time() - start).as_nanos() as f64 / (chunks * CHUNK / 1024) as f64
        };
        pin(cpus.client);
        let pairs = interleave(&mut world, [&plain, &proven], |world| {
            // Super-packets are a class of their own: it is proven before the window closes.
            send(CHUNKS / 4);
            world.close_window();
            send(CHUNKS)
        });
        report("TCP, one stream, window closed", "ns of CPU time per KiB", &pairs);
    });
    println!("{:?}", world.counts());
}

/// One attach and one detach of the exit at the NIC.
#[test]
#[ignore = "prints figures"]
fn time_of_a_window() {
    let mut world = World::new();
    let mut times: Vec<_> = (0..21)
        .map(|_| {
            let start = Instant::now();
            world.close_window();
            let closed = start.elapsed();
            world.open_window();
            (closed, start.elapsed() - closed)
        })
        .collect();
    times.sort_unstable();
    println!("detach {:?}, {:?} to {:?}", times[10].0, times[0].0, times[20].0);
    times.sort_unstable_by_key(|times| times.1);
    println!("attach {:?}, {:?} to {:?}", times[10].1, times[0].1, times[20].1);
}
