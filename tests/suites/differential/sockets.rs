//! What a TCP socket of gindemo2 counts.

use std::{
    io::{Read, Write},
    net::{IpAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use crate::{
    compare::{Comparison, Fields, Sample, Value},
    pair::{Pair, Place, Wire},
    sender::Path,
};

/// Less than the receive buffer.
const BYTES: usize = 60_000;

/// Counters of `struct tcp_info` (`include/uapi/linux/tcp.h`).
#[derive(Clone, Copy, Debug)]
struct TcpInfo {
    unacked: u32,
    total_retrans: u32,
    segs_out: u32,
    segs_in: u32,
}

fn tcp_info(stream: &TcpStream) -> TcpInfo {
    let mut info = [0u32; 64];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the buffer is writable and of the length given.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert!(result == 0 && length >= 36 * 4, "{}", std::io::Error::last_os_error());
    TcpInfo { unacked: info[6], total_retrans: info[25], segs_out: info[34], segs_in: info[35] }
}

/// Sends a stream to gindemo2. Segments that the sender has sent, and that the receiver has counted; `None` after
/// a retransmission, which may arrive twice or not at all.
fn stream(pair: &mut Pair, path: Path) -> Option<[u32; 2]> {
    pair.select([path, path]);
    let address: IpAddr = pair.container(2).ip().into();
    let listener = pair.container(2).enter(|| TcpListener::bind((address, 0)).unwrap());
    let to = listener.local_addr().unwrap();
    let mut client = pair.container(1).enter(|| TcpStream::connect(to).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    let receiver = thread::spawn(move || {
        let mut received = vec![0; BYTES];
        server.read_exact(&mut received).unwrap();
        (server, received)
    });
    let sent: Vec<_> = (0..BYTES).map(|at| (at ^ at >> 8) as u8).collect();
    client.write_all(&sent).unwrap();
    let (server, received) = receiver.join().unwrap();
    assert!(received == sent, "{path:?}: other bytes");
    // All segments are acknowledged, and so counted.
    let deadline = Instant::now() + Duration::from_secs(10);
    while tcp_info(&client).unacked != 0 {
        assert!(Instant::now() < deadline, "{path:?}: {:?}", tcp_info(&client));
        thread::sleep(Duration::from_millis(1));
    }
    let (client, server) = (tcp_info(&client), tcp_info(&server));
    (client.total_retrans + server.total_retrans == 0).then_some([client.segs_out, server.segs_in])
}

/// The kernel path counts every segment that the sender has counted.
fn socket_counts_segments(place: Place, wire: Wire) {
    let mut pair = Pair::start(place, wire);
    let mut comparison = Comparison::new();
    let case = pair.case();
    for _ in 0..5 {
        let mut count = |path| (0..20).find_map(|_| stream(&mut pair, path)).expect("a stream without retransmission");
        let [sent, by_kernel] = count(Path::Kernel);
        assert_eq!(by_kernel, sent, "{case:?}: segments counted by the kernel path, and sent");
        let [sent, by_program] = count(Path::Fast);
        // As if the kernel path had counted the same stream.
        let fields = |number: u32| Fields::from([("tcpi_segs_in", Value::Number(number.into()))]);
        let sample = Sample { cause: Fields::new(), kernel: fields(sent), fast: fields(by_program) };
        let wrong = comparison.add(&case, &sample);
        assert!(wrong.is_empty(), "{case:?}: {}", wrong.join("\n"));
    }
    comparison.finish();
}

#[test]
fn socket_counts_super_packets_as_known() {
    socket_counts_segments(Place::Host, Wire::Whole);
}

#[test]
fn socket_counts_segments_as_kernel_does() {
    socket_counts_segments(Place::Host, Wire::Segments);
}

#[test]
fn socket_counts_segments_behind_gro_as_known() {
    socket_counts_segments(Place::Host, Wire::Gro);
}

#[test]
fn socket_in_sandbox_counts_super_packets_as_known() {
    socket_counts_segments(Place::Sandbox, Wire::Whole);
}
