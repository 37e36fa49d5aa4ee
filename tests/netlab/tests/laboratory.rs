//! The laboratory itself: it builds what it says, its faults do what they say, and it leaves nothing behind.

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sluicegate_netlab::topology::{DsrLab, DsrTopology, Host};
use sluicegate_netlab::traffic::{TcpClient, TcpEcho, UdpEcho, ping, udp_ask};
use sluicegate_netlab::{Direction, Frame, Hook, Instruction, Lab, LabError, Namespace, Program, WireOptions};

/// For what must happen, on a machine of any load.
const SURELY: Duration = Duration::from_secs(20);
/// For what must not happen: long enough to have happened.
const MEANWHILE: Duration = Duration::from_millis(800);

#[test]
#[ignore = "needs root: network namespaces"]
fn hosts_reach_each_other_across_the_router() {
    for backends_on_link in [true, false] {
        let topology = DsrTopology { clients: 2, directors: 2, backends_on_link, ..DsrTopology::default() };
        let begun = Instant::now();
        let lab = Lab::dsr("sg-netlab", topology).expect("a lab");
        println!("built in {:?}", begun.elapsed());
        let client = &lab.clients[1];
        for host in lab.directors.iter().chain(&lab.backends).chain(&lab.clients) {
            for target in [IpAddr::from(host.ipv4), host.ipv6.into()] {
                ping(&client.namespace, target, 56, SURELY).expect("an answer");
            }
        }
        // As large as the MTU allows, and fragmented.
        ping(&client.namespace, lab.backends[0].ipv4.into(), 1472, SURELY).expect("an answer");
        ping(&client.namespace, lab.backends[0].ipv6.into(), 4000, SURELY).expect("an answer");
        let nobody = ping(&client.namespace, DsrLab::vip4(0).into(), 56, MEANWHILE);
        assert!(matches!(nobody, Err(LabError::Silence { .. })), "{nobody:?}");
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_network_can_have_hosts_on_the_link_and_behind_the_router() {
    let topology = DsrTopology { backends: 1, backends_on_link: false, ..DsrTopology::default() };
    let mut lab = Lab::dsr("sg-netlab", topology).expect("a lab");
    let near = lab.add_on_link("near", 21).expect("a host");
    let far = lab.add_behind_router("far", 22).expect("a host");
    assert_eq!((near.ipv4.to_string().as_str(), far.ipv4.to_string().as_str()), ("192.0.2.21", "203.0.113.22"));
    for host in [&near, &far] {
        for target in [IpAddr::from(host.ipv4), host.ipv6.into()] {
            ping(&lab.clients[0].namespace, target, 56, SURELY).expect("an answer");
        }
    }
    let mut on_link = Lab::dsr("sg-netlab", DsrTopology::default()).expect("a lab");
    assert!(on_link.add_behind_router("far", 22).is_err(), "there is nothing behind the router");
}

#[test]
#[ignore = "needs root: network namespaces"]
fn echo_servers_say_who_they_are() {
    let lab = Lab::dsr("sg-netlab", DsrTopology::default()).expect("a lab");
    let client = &lab.clients[0].namespace;
    for backend in &lab.backends {
        for address in [IpAddr::from(backend.ipv4), backend.ipv6.into()] {
            let name = format!("{} at {address}", backend.namespace.label());
            let tcp = TcpEcho::start(&backend.namespace, &name, (address, 8080).into()).expect("a server");
            let _udp = UdpEcho::start(&backend.namespace, &name, (address, 8080).into()).expect("a server");

            let mut connection = TcpClient::connect(client, (address, 8080).into(), SURELY).expect("a connection");
            assert_eq!(connection.server(), name);
            connection.echo(&vec![7; 1 << 20]).expect("the same bytes");
            assert_eq!(tcp.accepted(), 1);

            let reply = udp_ask(client, (address, 8080).into(), b"hello", SURELY).expect("a reply");
            assert_ne!(reply.client_port, 0);
            assert_eq!((reply.server, reply.payload), (name, b"hello".to_vec()));
        }
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_capture_sees_what_passed() {
    let lab = Lab::dsr("sg-netlab", DsrTopology::default()).expect("a lab");
    let (client, backend) = (&lab.clients[0], &lab.backends[0]);
    let capture = lab.lan.capture(&backend.namespace).expect("a capture");
    let elsewhere = lab.lan.capture(&lab.directors[0].namespace).expect("a capture");
    let server = (backend.ipv4, 8080);
    let _echo = TcpEcho::start(&backend.namespace, "one", server.into()).expect("a server");
    let mut connection = TcpClient::connect(&client.namespace, server.into(), SURELY).expect("a connection");
    connection.echo(&vec![7; 100_000]).expect("the same bytes");

    let arp = capture.wait_for(|frame| frame.is_arp_reply_for(backend.ipv4), SURELY).expect("an ARP reply");
    assert!(!arp.outgoing, "it came from the backend");
    assert_eq!(arp.source_mac(), Some(backend.namespace.mac("eth0").expect("a hardware address")));
    let frames = capture.stop();
    let segments: Vec<_> = frames.iter().filter(|frame| frame.tcp_flags().is_some()).collect();
    let syn = segments.first().expect("a segment");
    let flags = syn.tcp_flags().expect("flags");
    assert!(flags.syn() && !flags.ack() && syn.outgoing, "{flags:?}");
    assert_eq!(syn.ip_source(), Some(client.ipv4.into()));
    assert_eq!(syn.ip_destination(), Some(backend.ipv4.into()));
    assert_eq!(syn.ports().map(|(_, to)| to), Some(8080));
    assert!(segments.windows(2).all(|pair| pair[0].at <= pair[1].at), "times go forward");
    assert!(segments.iter().all(|frame| frame.bytes.len() <= 1514), "no segment is larger than the MTU");
    for frame in &segments {
        assert!(has_good_tcp_checksum(&frame.bytes), "{frame:?}");
    }
    let strayed = elsewhere.stop().into_iter().filter(|frame| frame.tcp_flags().is_some()).count();
    assert_eq!(strayed, 0, "the switch knows where the backend is");

    let folder = std::env::temp_dir().join(format!("sg-netlab-{}.pcap", std::process::id()));
    sluicegate_netlab::write_pcap(&folder, &frames).expect("a file");
    let length = std::fs::metadata(&folder).expect("a file").len() as usize;
    std::fs::remove_file(&folder).expect("a file");
    assert_eq!(length, 24 + frames.iter().map(|frame| 16 + frame.bytes.len()).sum::<usize>());
}

#[test]
#[ignore = "needs root: network namespaces"]
fn frames_that_xdp_sends_arrive() {
    let mut lab = Lab::new("sg-netlab").expect("a lab");
    let mut lan = lab.bridge("lan").expect("a switch");
    let (client, mirror) = (lab.namespace("client").expect("a host"), lab.namespace("mirror").expect("a host"));
    lan.attach(&client, "eth0", WireOptions::default()).expect("a wire");
    lan.attach(&mirror, "eth0", WireOptions::default()).expect("a wire");
    client.add_address("eth0", "192.0.2.1/24").expect("an address");
    client.set_neighbour("eth0", "192.0.2.2".parse().expect("good"), mirror.mac("eth0").expect("one")).expect("set");

    let from_mirror = lan.capture(&mirror).expect("a capture");
    let at_client = client.capture("eth0").expect("a capture");
    let reflects = mirror.attach("eth0", Hook::Xdp, &reflector()).expect("attached");
    // The mirror turns the hardware addresses alone, so the request comes back as it was and nobody answers it.
    let mirrored = || {
        at_client
            .frames()
            .iter()
            .filter(|frame| !frame.outgoing && frame.packet().is_some_and(|packet| packet.protocol == 1))
            .count()
    };
    let unanswered = ping(&client, "192.0.2.2".parse().expect("good"), 1472, MEANWHILE);
    assert!(unanswered.is_err());
    let came_back = from_mirror
        .wait_for(|frame| !frame.outgoing && frame.ip_source() == Some("192.0.2.1".parse().expect("good")), SURELY);
    let came_back = came_back.expect("a frame that XDP sent");
    assert_eq!(came_back.source_mac(), Some(mirror.mac("eth0").expect("one")));
    assert!(
        at_client
            .wait_for(|frame| !frame.outgoing && frame.ip_source() == Some("192.0.2.1".parse().expect("good")), SURELY)
            .is_some()
    );

    drop(reflects);
    let before = mirrored();
    assert!(before > 0);
    assert!(ping(&client, "192.0.2.2".parse().expect("good"), 56, MEANWHILE).is_err());
    assert_eq!(mirrored(), before, "the program was taken off");
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_plain_wire_needs_a_program_for_frames_of_xdp() {
    let mut lab = Lab::new("sg-netlab").expect("a lab");
    let (client, mirror) = (lab.namespace("client").expect("a host"), lab.namespace("mirror").expect("a host"));
    lab.connect(&client, "eth0", &mirror, "eth0", WireOptions { mtu: 9000, ..WireOptions::default() }).expect("a wire");
    client.add_address("eth0", "192.0.2.1/24").expect("an address");
    client.set_neighbour("eth0", "192.0.2.2".parse().expect("good"), mirror.mac("eth0").expect("one")).expect("set");
    let _reflects = mirror.attach("eth0", Hook::Xdp, &reflector()).expect("attached");
    let capture = client.capture("eth0").expect("a capture");
    let mirrored =
        || capture.frames().iter().filter(|frame| !frame.outgoing && frame.ether_type() == Some(0x0800)).count();

    assert!(ping(&client, "192.0.2.2".parse().expect("good"), 8000, MEANWHILE).is_err());
    assert_eq!(mirrored(), 0, "the kernel drops them without NAPI at this end");
    let _accepts = client.accept_xdp_frames("eth0").expect("attached");
    assert!(ping(&client, "192.0.2.2".parse().expect("good"), 8000, MEANWHILE).is_err());
    assert!(capture.wait_for(|frame| !frame.outgoing && frame.bytes.len() == 8042, SURELY).is_some());
}

#[test]
#[ignore = "needs root: network namespaces"]
fn unplugged_hosts_lose_their_carrier_and_nothing_else() {
    let lab = Lab::dsr("sg-netlab", DsrTopology::default()).expect("a lab");
    let (client, backend) = (&lab.clients[0].namespace, &lab.backends[0]);
    for target in [IpAddr::from(backend.ipv4), backend.ipv6.into()] {
        ping(client, target, 56, SURELY).expect("an answer");
        lab.lan.unplug(&backend.namespace).expect("unplugged");
        assert!(!backend.namespace.has_carrier("eth0").expect("an interface"));
        assert!(ping(client, target, 56, MEANWHILE).is_err());
        lab.lan.plug(&backend.namespace).expect("plugged");
        ping(client, target, 56, SURELY).expect("an answer");
        assert!(backend.namespace.has_carrier("eth0").expect("an interface"));
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_partition_parts_two_hosts_alone() {
    let lab = Lab::dsr("sg-netlab", DsrTopology { backends: 3, ..DsrTopology::default() }).expect("a lab");
    let [one, other, third] = &lab.backends[..] else { panic!("three backends") };
    let reach = |from: &Host, to: &Host, at_most| ping(&from.namespace, to.ipv4.into(), 56, at_most).is_ok();
    assert!(reach(one, other, SURELY));
    let partition = lab.lan.partition(&one.namespace, &other.namespace).expect("a partition");
    assert!(!reach(one, other, MEANWHILE) && !reach(other, one, MEANWHILE));
    assert!(reach(one, third, SURELY) && reach(third, other, SURELY));
    assert!(one.namespace.has_carrier("eth0").expect("an interface"));
    drop(partition);
    assert!(reach(one, other, SURELY));

    let cut_off = lab.lan.cut_off(&third.namespace).expect("cut off");
    assert!(!reach(one, third, MEANWHILE) && !reach(third, one, MEANWHILE) && reach(one, other, SURELY));
    drop(cut_off);
    assert!(reach(third, one, SURELY));
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_share_of_the_frames_is_lost() {
    let lab = Lab::dsr("sg-netlab", DsrTopology::default()).expect("a lab");
    let (client, backend) = (&lab.clients[0].namespace, &lab.backends[0]);
    ping(client, backend.ipv4.into(), 56, SURELY).expect("an answer");
    let passed = |share: Option<f64>| {
        let _loss = share.map(|share| lab.lan.lose(&backend.namespace, Direction::ToHost, share).expect("a fault"));
        let arrived = backend
            .namespace
            .capture_if("eth0", |frame| frame.ports().is_some_and(|(_, to)| to == 9))
            .expect("a capture");
        client.run(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
            for _ in 0..1000 {
                // A refusal of an earlier one is told here.
                let _ = socket.send_to(b"x", (backend.ipv4, 9));
            }
        });
        std::thread::sleep(MEANWHILE / 4);
        arrived.stop().len()
    };
    assert_eq!(passed(None), 1000);
    // Seven standard deviations of 1000 tosses at 0.3 are 0.1.
    let some = passed(Some(0.3));
    assert!((600..800).contains(&some), "{some} of 1000 came through a loss of 0.3");
    assert_eq!(passed(Some(1.0)), 0);
}

#[test]
#[ignore = "needs root: network namespaces"]
fn too_big_errors_can_be_kept_away() {
    let topology = DsrTopology { backends_on_link: false, farm_mtu: 1400, ..DsrTopology::default() };
    let lab = Lab::dsr("sg-netlab", topology).expect("a lab");
    // The director's answers are too large for the network of the backends, which the router tells it.
    let (director, backend) = (&lab.directors[0], &lab.backends[0]);
    for target in [IpAddr::from(backend.ipv4), backend.ipv6.into()] {
        let filter = lab.lan.drop_too_big_errors(&director.namespace).expect("a filter");
        let silent = ping(&director.namespace, target, 1440, MEANWHILE);
        assert!(silent.is_err(), "{target}: {silent:?}");
        drop(filter);
        ping(&director.namespace, target, 1440, SURELY).expect("an answer after the error was heard");
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_wire_can_be_slow() {
    let mut lab = Lab::new("sg-netlab").expect("a lab");
    let (near, far) = (lab.namespace("near").expect("a host"), lab.namespace("far").expect("a host"));
    let options = WireOptions { delay: Duration::from_millis(60), ..WireOptions::default() };
    lab.connect(&near, "eth0", &far, "eth0", options).expect("a wire");
    near.add_address("eth0", "192.0.2.1/24").expect("an address");
    far.add_address("eth0", "192.0.2.2/24").expect("an address");
    let took = ping(&near, "192.0.2.2".parse().expect("good"), 56, SURELY).expect("an answer");
    assert!(took >= Duration::from_millis(120), "{took:?}");
    let _echo = TcpEcho::start(&far, "far", ([192, 0, 2, 2], 80).into()).expect("a server");
    let mut connection = TcpClient::connect(&near, ([192, 0, 2, 2], 80).into(), SURELY).expect("a connection");
    connection.echo(&[7; 50_000]).expect("the same bytes");
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_host_of_a_switch_can_be_far_away() {
    let mut lab = Lab::new("sg-netlab").expect("a lab");
    let mut lan = lab.bridge("lan").expect("a switch");
    let (near, far) = (lab.namespace("near").expect("a host"), lab.namespace("far").expect("a host"));
    lan.attach(&near, "eth0", WireOptions::default()).expect("a wire");
    let slow = WireOptions { delay: Duration::from_millis(60), ..WireOptions::default() };
    lan.attach(&far, "eth0", slow).expect("a wire");
    near.add_address("eth0", "192.0.2.1/24").expect("an address");
    far.add_address("eth0", "192.0.2.2/24").expect("an address");
    let took = ping(&near, "192.0.2.2".parse().expect("good"), 1472, SURELY).expect("an answer");
    assert!(took >= Duration::from_millis(120), "{took:?}");
    let reflects = far.attach("eth0", Hook::Xdp, &reflector()).expect("attached");
    let capture = lan.capture(&far).expect("a capture");
    assert!(ping(&near, "192.0.2.2".parse().expect("good"), 56, MEANWHILE).is_err());
    let own = IpAddr::from([192, 0, 2, 1]);
    assert!(capture.wait_for(|frame| !frame.outgoing && frame.ip_source() == Some(own), SURELY).is_some());
    drop(reflects);
}

#[test]
#[ignore = "needs root: network namespaces"]
fn backends_hold_a_vip_without_telling() {
    let lab = Lab::dsr("sg-netlab", DsrTopology::default()).expect("a lab");
    let client = &lab.clients[0].namespace;
    for vip in [IpAddr::from(DsrLab::vip4(1)), DsrLab::vip6(1).into()] {
        for backend in &lab.backends {
            backend.namespace.hold_vip(vip).expect("held");
        }
        let capture = lab.lan.capture(&lab.router).expect("a capture");
        assert!(ping(client, vip, 56, MEANWHILE).is_err());
        let asks = |frame: &Frame| match vip {
            IpAddr::V4(vip) => frame.is_arp_request_for(vip),
            IpAddr::V6(vip) => frame.is_neighbor_solicitation_for(vip),
        };
        assert!(capture.wait_for(asks, SURELY).is_some(), "the router asks who has {vip}");
        assert_eq!(capture.count(|frame| frame.claims(vip)), 0, "nobody says so");

        // What a director does by L2 delivery: the packet comes to one backend.
        let chosen = &lab.backends[1].namespace;
        lab.router.set_neighbour("lan", vip, chosen.mac("eth0").expect("one")).expect("set");
        let _echo = TcpEcho::start(chosen, "chosen", (vip, 80).into()).expect("a server");
        let mut connection = TcpClient::connect(client, (vip, 80).into(), SURELY).expect("a connection");
        connection.echo(&[7; 10_000]).expect("the same bytes");
        assert_eq!(connection.server(), "chosen");
        let reply = |frame: &Frame| frame.ip_source() == Some(vip) && frame.tcp_flags().is_some();
        assert!(capture.wait_for(reply, SURELY).is_some(), "replies go straight to the router");
        assert_eq!(capture.count(|frame| frame.claims(vip)), 0);
        lab.backends[1].namespace.drop_vip(vip).expect("dropped");
        assert!(ping(client, vip, 56, MEANWHILE).is_err());
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn programs_see_their_namespace_and_pins_of_their_own() {
    let mut lab = Lab::new("sg-netlab").expect("a lab");
    let (one, other) = (lab.namespace("one").expect("a host"), lab.namespace("other").expect("a host"));
    lab.connect(&one, "eth7", &other, "eth8", WireOptions::default()).expect("a wire");
    let shell = |host: &Namespace, script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        host.spawn_process(command).expect("a process").wait(SURELY).expect("its end").success()
    };
    assert!(shell(&one, "test -e /sys/class/net/eth7 && ! test -e /sys/class/net/eth8"));
    assert!(shell(&one, "mkdir /sys/fs/bpf/pins"));
    assert!(shell(&one, "test -d /sys/fs/bpf/pins"), "they outlive the program");
    assert!(one.bpf_directory().join("pins").is_dir());
    assert!(!shell(&other, "test -d /sys/fs/bpf/pins"));
    assert!(!std::path::Path::new("/sys/fs/bpf/pins").exists(), "the host's are its own");
    let place = one.bpf_directory();
    drop(lab);
    assert!(!place.exists());
}

#[test]
#[ignore = "needs root: network namespaces"]
fn hosts_check_what_they_receive() {
    let mut lab = Lab::new("sg-netlab").expect("a lab");
    let mut lan = lab.bridge("lan").expect("a switch");
    let (one, other) = (lab.namespace("one").expect("a host"), lab.namespace("other").expect("a host"));
    lan.attach(&one, "eth0", WireOptions::default()).expect("a wire");
    lan.attach(&other, "eth0", WireOptions::default()).expect("a wire");
    other.add_address("eth0", "192.0.2.2/24").expect("an address");
    other.set_neighbour("eth0", "192.0.2.1".parse().expect("good"), one.mac("eth0").expect("one")).expect("set");
    let echo = UdpEcho::start(&other, "other", ([192, 0, 2, 2], 7).into()).expect("a server");
    let sender = one.frame_sender("eth0").expect("a sender");
    let replies = one.capture_if("eth0", |frame| frame.ports().is_some_and(|(from, _)| from == 7)).expect("a capture");
    let datagram = |checksum: u16, source_port: u16| {
        let mut ip = vec![0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        let sum = internet_checksum(&ip).to_be_bytes();
        ip[10..12].copy_from_slice(&sum);
        let udp = [&source_port.to_be_bytes()[..], &[0, 7, 0, 9], &checksum.to_be_bytes(), b"x"].concat();
        let macs = [other.mac("eth0").expect("one"), one.mac("eth0").expect("one")].concat();
        [macs, vec![8, 0], ip, udp].concat()
    };
    let right = |source_port: u16| {
        let pseudo =
            [&[192, 0, 2, 1, 192, 0, 2, 2, 0, 17, 0, 9][..], &source_port.to_be_bytes(), &[0, 7, 0, 9, 0, 0, b'x', 0]];
        internet_checksum(&pseudo.concat())
    };
    sender.send(&datagram(right(1001) ^ 1, 1001)).expect("sent");
    sender.send(&datagram(right(1002), 1002)).expect("sent");
    assert!(replies.wait_for(|frame| frame.ports() == Some((7, 1002)), SURELY).is_some());
    assert_eq!(echo.answered(), 1, "the one with the wrong checksum was dropped");
}

#[test]
#[ignore = "needs root: network namespaces"]
fn frames_are_sent_as_they_are() {
    let mut lab = Lab::new("sg-netlab").expect("a lab");
    let mut lan = lab.bridge("lan").expect("a switch");
    let (one, other) = (lab.namespace("one").expect("a host"), lab.namespace("other").expect("a host"));
    lan.attach(&one, "eth0", WireOptions::default()).expect("a wire");
    lan.attach(&other, "eth0", WireOptions::default()).expect("a wire");
    let capture = other.capture_if("eth0", |frame| frame.ether_type() == Some(0x88b5)).expect("a capture");
    let sender = one.frame_sender("eth0").expect("a sender");
    let mut sent = Vec::new();
    for number in 0..100_u8 {
        // For everyone, from nobody, of the type for experiments (RFC 9542).
        let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, number], &[0x88, 0xb5], &[number; 46]].concat();
        sender.send(&frame).expect("sent");
        sent.push(frame);
    }
    let last = sent.last().expect("one").clone();
    assert!(capture.wait_for(|frame| frame.bytes == last, SURELY).is_some());
    let received: Vec<_> = capture.stop().into_iter().map(|frame| frame.bytes).collect();
    assert_eq!(received, sent);
    assert!(sender.send(&[0; 2000]).is_err(), "longer than the MTU");
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_snooping_switch_delivers_a_group_to_who_joined_it() {
    use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
    let lab = Lab::dsr("sg-netlab", DsrTopology { backends: 3, ..DsrTopology::default() }).expect("a lab");
    let [sender, member, stranger] = &lab.backends[..] else { panic!("three backends") };
    let group6: Ipv6Addr = "ff12::1234".parse().expect("good");
    let group4 = Ipv4Addr::new(239, 1, 2, 3);
    let index = member.namespace.ifindex("eth0").expect("an interface");
    let (_joined6, _joined4) = member.namespace.run(|| {
        let six = UdpSocket::bind("[::]:0").expect("a socket");
        six.join_multicast_v6(&group6, index).expect("joined");
        let four = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        four.join_multicast_v4(&group4, &member.ipv4).expect("joined");
        (six, four)
    });
    let index = sender.namespace.ifindex("eth0").expect("an interface");
    for group in [IpAddr::from(group4), group6.into()] {
        let send = || {
            sender.namespace.run(|| {
                let any = if group.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).expect("a socket");
                let to = match group {
                    IpAddr::V4(group) => std::net::SocketAddr::from((group, 9)),
                    IpAddr::V6(group) => std::net::SocketAddrV6::new(group, 9, 0, index).into(),
                };
                socket.send_to(b"x", to).expect("sent");
            });
        };
        // The switch snoops once its own queries have had time to be answered.
        let deadline = Instant::now() + SURELY;
        loop {
            let (at_member, at_stranger) = (
                lab.lan.capture(&member.namespace).expect("a capture"),
                lab.lan.capture(&stranger.namespace).expect("a capture"),
            );
            send();
            assert!(at_member.wait_for(|frame| frame.ip_destination() == Some(group), SURELY).is_some(), "{group}");
            if at_stranger.stop().iter().all(|frame| frame.ip_destination() != Some(group)) {
                break;
            }
            assert!(Instant::now() < deadline, "{group} is still flooded to who did not join");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn settings_belong_to_one_namespace() {
    let mut lab = Lab::new("sg-netlab").expect("a lab");
    let (one, other) = (lab.namespace("one").expect("a host"), lab.namespace("other").expect("a host"));
    one.set_sysctl("net/ipv4/ip_forward", "1").expect("set");
    assert_eq!(one.sysctl("net/ipv4/ip_forward").expect("read"), "1");
    assert_eq!(other.sysctl("net/ipv4/ip_forward").expect("read"), "0");
    assert!(one.sysctl("net/ipv4/no_such_thing").is_err());
    assert!(matches!(one.mac("eth7"), Err(LabError::NoInterface { .. })));
    assert!(lab.namespace("one").is_err(), "labels are unique");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one.run(|| panic!("as it should"))));
    assert!(panicked.is_err());
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_lab_goes_with_all_that_is_in_it() {
    let prefix = "sg-netlab-drop";
    let mut lab = Lab::new(prefix).expect("a lab");
    let host = lab.namespace("host").expect("a host");
    assert!(host.path().exists());
    let mut sleeper = host.spawn_process(sleep()).expect("a process");
    let theirs = std::fs::read_link(format!("/proc/{}/ns/net", sleeper.id())).expect("a namespace");
    assert_eq!(theirs, host.run(|| std::fs::read_link("/proc/thread-self/ns/net").expect("a namespace")));
    assert_eq!(Lab::sweep(prefix), 0, "its process lives");
    assert!(host.path().exists());
    drop(lab);
    assert!(!host.path().exists());
    sleeper.wait(SURELY).expect("it was killed");
}

#[test]
#[ignore = "needs root: network namespaces"]
fn processes_can_be_held_and_killed() {
    let mut lab = Lab::new("sg-netlab").expect("a lab");
    let host = lab.namespace("host").expect("a host");
    let mut sleeper = host.spawn_process(sleep()).expect("a process");
    let state = |id: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("a process");
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
    };
    let reaches = |wanted: fn(char) -> bool| {
        let deadline = Instant::now() + SURELY;
        while !state(sleeper.id()).is_some_and(wanted) {
            assert!(Instant::now() < deadline, "{:?}", state(sleeper.id()));
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    sleeper.freeze().expect("held");
    reaches(|state| state == 'T');
    sleeper.thaw().expect("let go");
    reaches(|state| state != 'T');
    assert!(sleeper.wait(MEANWHILE).is_err(), "it goes on");
    assert!(!sleeper.kill().expect("killed").success());
}

#[test]
#[ignore = "needs root: network namespaces"]
fn what_a_killed_process_left_is_swept() {
    use std::io::{BufRead, BufReader};
    if let Ok(prefix) = std::env::var(CRASHING) {
        return build_a_lab_and_wait_to_be_killed(&prefix);
    }
    // This test looks at all namespaces of its prefix, which another run of it must not share.
    let prefix = &format!("sg-netlab-crash-{}", std::process::id());
    let places = || {
        let entries = std::fs::read_dir("/run/netns").expect("a folder");
        let names = entries.filter_map(|entry| entry.expect("an entry").file_name().into_string().ok());
        names.filter(|name| name.starts_with(prefix.as_str())).count()
    };
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "--nocapture", "what_a_killed_process_left_is_swept"])
        .env(CRASHING, prefix)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let sleeper: Option<u32> = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("sleeper=")?.parse().ok());
    let sleeper = sleeper.expect("the child has built its lab");
    assert_eq!(Lab::sweep(prefix), 0, "its process lives");
    assert_eq!(places(), 6);
    child.kill().expect("killed");
    child.wait().expect("gone");
    assert_eq!(places(), 6, "a killed process cleans nothing up");
    assert_eq!(Lab::sweep(prefix), 6);
    assert_eq!(places(), 0);
    let deadline = Instant::now() + SURELY;
    while std::fs::read_link(format!("/proc/{sleeper}/ns/net")).is_ok() {
        assert!(Instant::now() < deadline, "what ran in it is killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    let lab = Lab::dsr(prefix, DsrTopology::default()).expect("a lab of the same prefix can be built again");
    drop(lab);
    assert_eq!(places(), 0);
}

/// Tells a test that it is its own child, and the prefix of the lab that it is to build.
const CRASHING: &str = "SLUICEGATE_NETLAB_CRASHING";

fn build_a_lab_and_wait_to_be_killed(prefix: &str) {
    let lab = Lab::dsr(prefix, DsrTopology::default()).expect("a lab");
    let sleeper = lab.backends[0].namespace.spawn_process(sleep()).expect("a process");
    println!("\nsleeper={}", sleeper.id());
    // Should the parent fail before it kills this, the pipe ends and the lab is taken away.
    let _ = std::io::stdin().read_line(&mut String::new());
}

fn sleep() -> Command {
    let mut command = Command::new("sleep");
    command.arg("600");
    command
}

/// An XDP program that sends every frame back to where it came from.
fn reflector() -> Program {
    const XDP_PASS: i32 = 2;
    const XDP_TX: i32 = 3;
    let mut code = vec![
        Instruction::load_word(2, 1, 0),
        Instruction::load_word(3, 1, 4),
        Instruction::copy(4, 2),
        Instruction::add(4, 14),
        Instruction::skip_if_above(4, 3, 14),
    ];
    for at in [0, 2, 4] {
        code.extend([
            Instruction::load_half(5, 2, at),
            Instruction::load_half(6, 2, at + 6),
            Instruction::store_half(2, at, 6),
            Instruction::store_half(2, at + 6, 5),
        ]);
    }
    code.extend([Instruction::set(0, XDP_TX), Instruction::exit(), Instruction::set(0, XDP_PASS), Instruction::exit()]);
    Program::new("reflector", code)
}

/// Over the pseudo header of RFC 9293, for IPv4 without options.
fn has_good_tcp_checksum(frame: &[u8]) -> bool {
    let length = usize::from(u16::from_be_bytes([frame[16], frame[17]])) - 20;
    let segment = &frame[34..34 + length];
    let mut bytes = frame[26..34].to_vec();
    bytes.extend([0, 6]);
    bytes.extend((length as u16).to_be_bytes());
    bytes.extend(segment);
    internet_checksum(&bytes) == 0
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u64 =
        bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
