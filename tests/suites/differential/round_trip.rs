//! Frames encapsulated by either path are decapsulated by either path.

use std::cell::RefCell;

use proptest::{
    collection::vec,
    strategy::{Strategy, ValueTree},
};

use crate::{
    frames::{Frame, frame, numbered},
    receiver::{self, Receiver, Rx},
    runner,
    sender::{self, Sender},
};

fn frames() -> Vec<Frame> {
    vec(frame(), 60).new_tree(&mut runner(1)).expect("frames can be generated").current()
}

/// The packets are captured on one wire and sent on another.
#[test]
fn frame_arrives_unmodified_over_every_pair_of_paths() {
    let frames = frames();
    let sent = numbered(&frames);
    let mut sender = Sender::start();
    let captured = [sender::Path::Fast, sender::Path::Kernel].map(|path| (path, sender.send(path, &sent)));
    drop(sender);

    for rx in [Rx::Tc, Rx::Xdp] {
        let receiver = RefCell::new(Receiver::start(rx));
        for (from, packets) in &captured {
            let packets: Vec<_> = packets.packets().into_values().map(<[u8]>::to_vec).collect();
            for to in [receiver::Path::Fast, receiver::Path::Kernel] {
                let (arrived, _) = receiver.borrow_mut().receive(to, &packets, sent.len());
                let arrived = arrived.packets();
                for ((number, frame), bytes) in (1..).zip(&frames).zip(&sent) {
                    assert_eq!(arrived.get(&number), Some(&&bytes[..]), "{from:?} → {rx:?} {to:?}: {frame:?}");
                }
            }
        }
    }
}
