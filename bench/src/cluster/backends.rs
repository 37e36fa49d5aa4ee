//! Two listeners that answer every request with their letter.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

const LETTERS: [&str; 2] = ["backend-a", "backend-b"];

/// Both of them, for as long as the process lives.
pub struct Backends([SocketAddr; 2]);

impl Backends {
    pub fn start() -> io::Result<Self> {
        Ok(Self([listen(LETTERS[0])?, listen(LETTERS[1])?]))
    }

    pub fn address(&self, letter: usize) -> SocketAddr {
        self.0[letter]
    }

    pub fn answer(&self, letter: usize) -> &'static str {
        LETTERS[letter]
    }
}

/// An address of this machine that is not of the loopback interface: an API server takes no other for an endpoint. No
/// packet is sent to find it, and packets to it stay on this machine.
fn own_address() -> io::Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("192.0.2.1:9")?;
    Ok(socket.local_addr()?.ip())
}

fn listen(letter: &'static str) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((own_address()?, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // Whoever goes away in the middle is not missed.
            thread::spawn(move || drop(serve(stream, letter)));
        }
    });
    Ok(address)
}

fn serve(mut stream: TcpStream, letter: &str) -> io::Result<()> {
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{letter}", letter.len());
    let (mut head, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut piece)? {
                0 => return Ok(()),
                length => head.extend_from_slice(&piece[..length]),
            }
        }
        stream.write_all(answer.as_bytes())?;
    }
}
