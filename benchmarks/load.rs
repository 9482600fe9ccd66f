//! The generator's loop where there is a `rustc`: what benchmarks/generator.py
//! does, at a tenth of its cost. It needs no crates:
//!
//! `rustc -O -o load load.rs`
//!
//! `generator.py` makes the requests, opens the connections, and turns into this
//! program, which inherits all of them as descriptors. Times are in nanoseconds.

use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::os::unix::io::{AsRawFd, FromRawFd};
use std::process::exit;
use std::time::Instant;

const PATIENCE: i32 = 30_000;
const READABLE: u32 = 1;
const WRITABLE: u32 = 4;
const HEAD: &[u8] = b"{\"extID\":";
const MIDDLE: &[u8] = b",\"status\":200,\"data\":{\"order\":";
const EVENT: &[u8] = b"{\"event\":\"trade:event\",\"type\":0,\"data\":{\"order\":";

#[repr(C)]
#[cfg_attr(target_arch = "x86_64", repr(packed))]
#[derive(Clone, Copy)]
struct Ready {
    mask: u32,
    number: u64,
}

extern "C" {
    fn epoll_create1(flags: i32) -> i32;
    fn epoll_ctl(poll: i32, operation: i32, descriptor: i32, ready: *mut Ready) -> i32;
    fn epoll_wait(poll: i32, ready: *mut Ready, most: i32, timeout: i32) -> i32;
    fn clock() -> i64;
}

/// The requests of all connections, and what their replies must contain. All lines
/// have the same length, and each connection has a run of `length` of them.
struct Rings {
    first: u64,
    length: usize,
    line: usize,
    outcome: usize,
    lines: Vec<u8>,
    outcomes: Vec<u8>,
}

impl Rings {
    fn line(&self, serial: usize) -> &[u8] {
        &self.lines[serial * self.line..][..self.line]
    }

    fn outcome(&self, serial: usize) -> &[u8] {
        &self.outcomes[serial * self.outcome..][..self.outcome]
    }
}

/// One connection; `announced` are the orders of the events that it has seen, if
/// it has subscribed to them.
struct Connection {
    stream: TcpStream,
    next: usize,
    partial: Vec<u8>,
    unsent: Vec<u8>,
    announced: Option<HashSet<u64>>,
}

struct Load {
    rings: Rings,
    connections: Vec<Connection>,
    poll: i32,
    /// When each request was sent or due; 0 if it is not outstanding.
    sent: Vec<u64>,
    outstanding: usize,
    start: Instant,
    latencies: Vec<u64>,
    orders: Vec<u64>,
    events: u64,
    sum_of_events: u64,
    http: bool,
}

fn unexpected(what: &str, line: &[u8]) -> ! {
    eprintln!("{what}: {}", String::from_utf8_lossy(line));
    exit(1)
}

fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let end = text.iter().position(|each| !each.is_ascii_digit())?;
    let value = std::str::from_utf8(&text[..end]).ok()?.parse().ok()?;
    Some((value, &text[end..]))
}

impl Load {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn watch(&self, at: usize, operation: i32, mask: u32) {
        let mut ready = Ready { mask, number: at as u64 };
        let descriptor = self.connections[at].stream.as_raw_fd();
        if unsafe { epoll_ctl(self.poll, operation, descriptor, &mut ready) } != 0 {
            unexpected("epoll_ctl failed", b"");
        }
    }

    /// Send the next requests of a connection, `times` being when they are due.
    fn ask(&mut self, at: usize, times: impl Iterator<Item = u64>) {
        let length = self.rings.length;
        let mut lines = Vec::new();
        for time in times {
            let connection = &mut self.connections[at];
            let serial = at * length + connection.next;
            connection.next = (connection.next + 1) % length;
            if self.sent[serial] != 0 {
                unexpected("a request was overtaken by all the others of its ring", b"");
            }
            self.sent[serial] = time.max(1);
            self.outstanding += 1;
            lines.extend_from_slice(self.rings.line(serial));
        }
        let connection = &mut self.connections[at];
        let was_full = !connection.unsent.is_empty();
        connection.unsent.append(&mut lines);
        if !was_full && !self.push(at) {
            self.watch(at, 3, READABLE | WRITABLE);
        }
    }

    /// Send the rest of the requests; returns whether everything is sent now.
    fn push(&mut self, at: usize) -> bool {
        let Connection { stream, unsent, .. } = &mut self.connections[at];
        match stream.write(unsent) {
            Ok(count) => drop(unsent.drain(..count)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => unexpected("sending failed", e.to_string().as_bytes()),
        }
        unsent.is_empty()
    }

    /// Read what has come on a connection; returns the number of replies.
    fn read(&mut self, at: usize, chunk: &mut [u8]) -> usize {
        let count = match self.connections[at].stream.read(chunk) {
            Ok(0) => unexpected("the server closed a connection", b""),
            Ok(count) => count,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return 0,
            Err(e) => unexpected("reading failed", e.to_string().as_bytes()),
        };
        let now = self.now();
        let mut rest = &chunk[..count];
        let mut replies = 0;
        let mut partial = std::mem::take(&mut self.connections[at].partial);
        while let Some(end) = rest.iter().position(|each| *each == b'\n') {
            let (line, after) = rest.split_at(end + 1);
            rest = after;
            let is_reply = if partial.is_empty() {
                self.take(at, line, now)
            } else {
                partial.extend_from_slice(line);
                let is_reply = self.take(at, &partial, now);
                partial.clear();
                is_reply
            };
            replies += is_reply as usize;
        }
        partial.extend_from_slice(rest);
        self.connections[at].partial = partial;
        replies
    }

    /// Verify a line; returns whether it is a reply.
    fn take(&mut self, at: usize, line: &[u8], now: u64) -> bool {
        if let Some(rest) = line.strip_prefix(EVENT) {
            self.event(at, rest, line);
            return false;
        }
        if self.http && !line.starts_with(b"{") {
            if line.starts_with(b"HTTP/1.1 ") && !line.starts_with(b"HTTP/1.1 200 ") {
                unexpected("a response is no success", line);
            }
            return false;
        }
        let (ext_id, order) = match self.reply(line) {
            Some(good) => good,
            None => unexpected("a line is no good reply", line),
        };
        let serial = ext_id.wrapping_sub(self.rings.first) as usize;
        if serial / self.rings.length != at || self.sent[serial] == 0 {
            unexpected("a reply that is not outstanding here", line);
        }
        if let Some(announced) = &self.connections[at].announced {
            if !announced.contains(&order) {
                unexpected("a reply came before its event", line);
            }
        }
        self.latencies.push(now.saturating_sub(self.sent[serial]));
        self.sent[serial] = 0;
        self.outstanding -= 1;
        self.orders.push(order);
        true
    }

    /// The extID and the order of a good reply.
    fn reply(&self, line: &[u8]) -> Option<(u64, u64)> {
        let (ext_id, rest) = number(line.strip_prefix(HEAD)?)?;
        let (order, rest) = number(rest.strip_prefix(MIDDLE)?)?;
        let serial = ext_id.checked_sub(self.rings.first)? as usize;
        if serial >= self.sent.len() || !line.ends_with(b"}}\r\n") {
            return None;
        }
        let outcome = rest.strip_prefix(b",")?.strip_prefix(self.rings.outcome(serial))?;
        outcome.starts_with(b",").then_some((ext_id, order))
    }

    fn event(&mut self, at: usize, rest: &[u8], line: &[u8]) {
        let http = self.http;
        let order = match (number(rest), &mut self.connections[at].announced) {
            (Some((order, _)), Some(announced)) => {
                announced.insert(order);
                order
            }
            (Some((order, _)), None) if http => order,
            _ => unexpected("an event where nobody has subscribed", line),
        };
        self.events += 1;
        self.sum_of_events += order;
    }

    /// Wait at most this long for readable connections, and read them.
    fn turn(&mut self, chunk: &mut [u8], timeout: i32, asking: bool) {
        let mut ready = [Ready { mask: 0, number: 0 }; 256];
        let count = unsafe { epoll_wait(self.poll, ready.as_mut_ptr(), 256, timeout) };
        if count == 0 && timeout == PATIENCE {
            unexpected("the server said nothing for 30 s", b"");
        }
        for each in ready.iter().take(count.max(0) as usize) {
            let (at, mask) = (each.number as usize, each.mask);
            if mask & WRITABLE != 0 && self.push(at) {
                self.watch(at, 3, READABLE);
            }
            if mask & !WRITABLE != 0 {
                let replies = self.read(at, chunk);
                if asking && replies > 0 {
                    let now = self.now();
                    self.ask(at, std::iter::repeat(now).take(replies));
                }
            }
        }
    }
}

/// Nearest rank, in milliseconds.
fn percentile(ordered: &[u64], percent: f64) -> f64 {
    let rank = (ordered.len() as f64 * percent / 100.0).ceil() as usize;
    ordered[rank.max(1).min(ordered.len()) - 1] as f64 / 1e6
}

/// Send at a fixed rate until the time is over; returns how late each request was.
fn pace(load: &mut Load, chunk: &mut [u8], rate: f64, until: u64, at: &mut usize) -> Vec<u64> {
    let begin = load.now();
    let (mut asked, mut late) = (0u64, Vec::new());
    while load.now() < until {
        let now = load.now();
        let due = ((now - begin) as f64 * rate / 1e9) as u64 + 1;
        while asked < due {
            let time = begin + (asked as f64 * 1e9 / rate) as u64;
            load.ask(*at, std::iter::once(time));
            late.push(now.saturating_sub(time));
            *at = (*at + 1) % load.connections.len();
            asked += 1;
        }
        load.turn(chunk, 0, false);
    }
    late
}

fn main() {
    let given: Vec<String> = std::env::args().collect();
    let value = |at: usize| given[at].parse::<f64>().expect("a number");
    let whole = |at: usize| value(at) as usize;
    let (first, length, line, outcome) = (whole(2) as u64, whole(3), whole(4), whole(5));
    let (outstanding, warm_up, seconds, rate) = (whole(6), value(7), value(8), value(9));
    let (subscribed, http) = (whole(10), given[11] == "http");
    let mut file = unsafe { File::from_raw_fd(whole(1) as i32) };
    let mut lines = Vec::new();
    file.seek(SeekFrom::Start(0)).expect("a file");
    file.read_to_end(&mut lines).expect("a file");
    let descriptors: Vec<i32> = given[12].split(',').map(|d| d.parse().unwrap()).collect();
    let count = descriptors.len() * length;
    let outcomes = lines.split_off(count * line);
    let mut load = Load {
        rings: Rings { first, length, line, outcome, lines, outcomes },
        connections: Vec::new(),
        poll: unsafe { epoll_create1(0) },
        sent: vec![0; count],
        outstanding: 0,
        start: Instant::now(),
        latencies: Vec::new(),
        orders: Vec::new(),
        events: 0,
        sum_of_events: 0,
        http,
    };
    for (at, descriptor) in descriptors.into_iter().enumerate() {
        let stream = unsafe { TcpStream::from_raw_fd(descriptor) };
        stream.set_nonblocking(true).expect("a socket");
        let announced = (at < subscribed && !http).then(HashSet::new);
        let (partial, unsent) = (Vec::new(), Vec::new());
        load.connections.push(Connection { stream, next: 0, partial, unsent, announced });
        load.watch(at, 1, READABLE);
    }
    let mut chunk = vec![0; 1 << 18];
    let mut at = 0;
    let is_open = rate > 0.0;
    if !is_open {
        for at in 0..load.connections.len() {
            let now = load.now();
            load.ask(at, std::iter::repeat(now).take(outstanding));
        }
    }
    let mut late = vec![0];
    let mut measured = (0, 0, 0.0, 0.0);
    for seconds in [warm_up, seconds] {
        let (begin, busy) = (load.now(), unsafe { clock() });
        let until = begin + (seconds * 1e9) as u64;
        let before = load.latencies.len();
        if is_open {
            late = pace(&mut load, &mut chunk, rate, until, &mut at);
        } else {
            while load.now() < until {
                load.turn(&mut chunk, PATIENCE, true);
            }
        }
        let elapsed = (load.now() - begin) as f64 / 1e9;
        let busy = (unsafe { clock() } - busy) as f64 / 1e6;
        measured = (before, load.latencies.len(), elapsed, busy / elapsed);
    }
    let (before, mut after, elapsed, busy) = measured;
    let answered = after - before;
    while load.outstanding > 0 {
        load.turn(&mut chunk, PATIENCE, false);
    }
    // In an open loop the late ones matter most.
    if is_open {
        after = load.latencies.len();
    }
    let expected = (load.orders.len() * if http { 1 } else { subscribed }) as u64;
    while load.events < expected {
        load.turn(&mut chunk, PATIENCE, false);
    }
    let mut latencies = load.latencies[before..after].to_vec();
    if latencies.is_empty() {
        unexpected("nothing was answered in time", b"");
    }
    latencies.sort_unstable();
    late.sort_unstable();
    load.orders.sort_unstable();
    let sum: u64 = load.orders.iter().sum();
    let total = load.orders.len();
    load.orders.dedup();
    println!(
        "{{\"rate\":{},\"p50\":{},\"p90\":{},\"p99\":{},\"p999\":{},\"max\":{},\"late\":{},\
         \"busy\":{busy},\"answered\":{total},\"orders\":{},\"sumOfOrders\":{sum},\
         \"events\":{},\"sumOfEvents\":{},\"generator\":\"rust\"}}",
        answered as f64 / elapsed,
        percentile(&latencies, 50.0),
        percentile(&latencies, 90.0),
        percentile(&latencies, 99.0),
        percentile(&latencies, 99.9),
        percentile(&latencies, 100.0),
        percentile(&late, 99.0),
        load.orders.len(),
        load.events,
        load.sum_of_events,
    );
}
