//! The near-physical limit: tokio, serde_json, and rusqlite in a thread of its
//! own that commits all that has queued since its last commit.
//!
//! `peer PORT KEYFILE LEDGER`

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{ErrorKind, Write};
use std::rc::Rc;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, Mac};
use rusqlite::{params, Connection as Database};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::Sha256;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{unbounded_channel, UnboundedReceiver, UnboundedSender};
use tokio::sync::Notify;
use tokio::task::{spawn_local, LocalSet};

const TIMEOUT: Duration = Duration::from_secs(5);
const MOST_UNREAD: usize = 4 << 20;
const MOST_IN_A_LINE: usize = 65536;
const UNITS: i64 = 100_000_000;

#[derive(Deserialize)]
struct Request<'a> {
    command: &'a str,
    #[serde(borrow, rename = "extID")]
    ext_id: &'a RawValue,
    #[serde(rename = "__token")]
    token: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Credit {
    login: i64,
    amount: f64,
    comment: String,
}

#[derive(Deserialize)]
struct Claims {
    exp: f64,
    role: i64,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

struct Trade {
    order: i64,
    login: i64,
    profit: i64,
    comment: String,
    time: i64,
}

struct Waiter {
    connection: usize,
    ext_id: Box<RawValue>,
}

struct Connection {
    stream: Rc<TcpStream>,
    output: Vec<u8>,
    writable: Rc<Notify>,
}

/// The server's state.
struct Server {
    key: Vec<u8>,
    tokens: HashMap<String, f64>,
    next_order: i64,
    next_connection: usize,
    connections: HashMap<usize, Connection>,
    audience: HashSet<usize>,
    waiters: HashMap<i64, Waiter>,
    due: VecDeque<(Instant, i64)>,
    armed: Rc<Notify>,
    ledger: Sender<Trade>,
}

type Shared = Rc<RefCell<Server>>;

impl Server {
    /// Handle one line; errors and subscriptions are answered at once.
    fn take(&mut self, connection: usize, line: &[u8]) {
        if let Err(why) = self.execute(connection, line) {
            let refusal = format!(
                "{{\"status\":400,\"error\":\"INVALID_DATA\",\"message\":\"{why}\"}}\r\n"
            );
            self.write(connection, refusal.as_bytes());
        }
    }

    fn execute(&mut self, connection: usize, line: &[u8]) -> Result<(), &'static str> {
        let request: Request = serde_json::from_slice(line).map_err(|_| "no request")?;
        let first = request.ext_id.get().as_bytes()[0];
        if first != b'"' && first != b'-' && !first.is_ascii_digit() {
            return Err("extID is neither a string nor an integer");
        }
        self.authenticate(request.token)?;
        match request.command {
            "CreditInSync" => self.credit(connection, &request),
            "Subscribe" | "Unsubscribe" => {
                if request.command == "Subscribe" {
                    self.audience.insert(connection);
                } else {
                    self.audience.remove(&connection);
                }
                let reply = reply(request.ext_id, b"{}");
                self.write(connection, &reply);
                Ok(())
            }
            _ => Err("no such command"),
        }
    }

    fn credit(&mut self, connection: usize, request: &Request) -> Result<(), &'static str> {
        let credit: Credit =
            serde_json::from_str(request.data.get()).map_err(|_| "data is no credit")?;
        let profit = valid(&credit)?;
        let order = self.next_order;
        self.next_order += 1;
        let ext_id = request.ext_id.to_owned();
        self.waiters.insert(order, Waiter { connection, ext_id });
        if self.due.is_empty() {
            self.armed.notify_one();
        }
        self.due.push_back((Instant::now() + TIMEOUT, order));
        let time = now() as i64;
        let Credit { login, comment, .. } = credit;
        self.ledger
            .send(Trade { order, login, profit, comment, time })
            .map_err(|_| "the ledger is gone")
    }

    /// Verify a token once, and cache it until it expires.
    fn authenticate(&mut self, token: &str) -> Result<(), &'static str> {
        if let Some(expires) = self.tokens.get(token) {
            return if now() < *expires { Ok(()) } else { Err("the token has expired") };
        }
        let claims = verified(token, &self.key).ok_or("the token is not good")?;
        if now() >= claims.exp || !(1..=3).contains(&claims.role) {
            return Err("the token is not good for this");
        }
        self.tokens.insert(token.to_owned(), claims.exp);
        Ok(())
    }

    /// Broadcast the event of a booked trade, then reply to its request.
    fn publish(&mut self, trade: &Trade, touched: &mut HashSet<usize>) {
        let data = encoded(trade);
        if !self.audience.is_empty() {
            let mut event = b"{\"event\":\"trade:event\",\"type\":0,\"data\":".to_vec();
            event.extend_from_slice(&data);
            event.extend_from_slice(b"}\r\n");
            for each in &self.audience {
                if let Some(connection) = self.connections.get_mut(each) {
                    connection.output.extend_from_slice(&event);
                    touched.insert(*each);
                }
            }
        }
        if let Some(waiter) = self.waiters.remove(&trade.order) {
            let line = reply(&waiter.ext_id, &data);
            self.write(waiter.connection, &line);
            touched.insert(waiter.connection);
        }
    }

    fn write(&mut self, connection: usize, line: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.output.extend_from_slice(line);
        }
    }

    /// Send the queued output, as far as the socket accepts it.
    fn flush(&mut self, id: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.output.is_empty() {
            return;
        }
        match connection.stream.try_write(&connection.output) {
            Ok(sent) => drop(connection.output.drain(..sent)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => connection.output.clear(),
        }
        if connection.output.len() > MOST_UNREAD {
            self.forget(id);
        } else if !connection.output.is_empty() {
            connection.writable.notify_one();
        }
    }

    fn forget(&mut self, id: usize) {
        self.audience.remove(&id);
        if let Some(connection) = self.connections.remove(&id) {
            connection.writable.notify_one();
        }
    }

    /// Answer the requests that have timed out; returns when the next one will.
    fn expire(&mut self) -> Option<Instant> {
        while let Some(&(due, order)) = self.due.front() {
            let waits = self.waiters.contains_key(&order);
            if waits && due > Instant::now() {
                return Some(due);
            }
            self.due.pop_front();
            let Some(waiter) = self.waiters.remove(&order) else { continue };
            let timeout = format!(
                "{{\"extID\":{},\"status\":504,\"error\":\"SYNC_TIMEOUT\",\"message\":\
                 \"no answer within 5000 ms\",\"data\":{{\"order\":{order}}}}}\r\n",
                waiter.ext_id
            );
            self.write(waiter.connection, timeout.as_bytes());
            self.flush(waiter.connection);
        }
        None
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// The amount in units, if the credit matches its schema.
fn valid(credit: &Credit) -> Result<i64, &'static str> {
    if !(1..=(1 << 53) - 1).contains(&credit.login) {
        return Err("data.login is out of its range");
    }
    if !(credit.amount > 0.0 && credit.amount <= 1e10) {
        return Err("data.amount is out of its range");
    }
    let units = (credit.amount * UNITS as f64).round();
    if units / UNITS as f64 != credit.amount {
        return Err("data.amount has more than 8 decimals");
    }
    let comment = &credit.comment;
    let length = if comment.len() > 255 { comment.chars().count() } else { comment.len() };
    let odd = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r');
    if !(1..=255).contains(&length) || comment.chars().any(odd) {
        return Err("data.comment is none");
    }
    Ok(units as i64)
}

fn verified(token: &str, key: &[u8]) -> Option<Claims> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, payload) = signed.split_once('.')?;
    let header: Header = serde_json::from_slice(&decoded(header)?).ok()?;
    if header.alg != "HS256" {
        return None;
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(signed.as_bytes());
    mac.verify_slice(&decoded(signature)?).ok()?;
    serde_json::from_slice(&decoded(payload)?).ok()
}

/// Base64 for URLs, without padding.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let (mut bits, mut count, mut bytes) = (0u32, 0, Vec::new());
    for each in text.bytes() {
        let value = match each {
            b'A'..=b'Z' => each - b'A',
            b'a'..=b'z' => each - b'a' + 26,
            b'0'..=b'9' => each - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

fn encoded(trade: &Trade) -> Vec<u8> {
    let mut data = Vec::with_capacity(352);
    let (whole, rest) = (trade.profit / UNITS, trade.profit % UNITS);
    let decimals = format!("{rest:08}");
    let decimals = decimals.trim_end_matches('0');
    let decimals = if decimals.is_empty() { "0" } else { decimals };
    let (order, login, time) = (trade.order, trade.login, trade.time);
    let _ = write!(
        data,
        "{{\"order\":{order},\"login\":{login},\"cmd\":7,\"state\":3,\
         \"profit\":{whole}.{decimals},\"comment\":"
    );
    let _ = serde_json::to_writer(&mut data, &trade.comment);
    let _ = write!(
        data,
        ",\"symbol\":\"\",\"volume\":0,\"open_price\":0.0,\"close_price\":0.0,\
         \"open_time\":{time},\"close_time\":{time},\"sl\":0.0,\"tp\":0.0,\"storage\":0.0,\
         \"commission\":0.0,\"reason\":7,\"timestamp\":{time},\
         \"cursor\":\"9f3c1a7e-{order}\"}}"
    );
    data
}

fn reply(ext_id: &RawValue, data: &[u8]) -> Vec<u8> {
    let parts: [&[u8]; 5] =
        [b"{\"extID\":", ext_id.get().as_bytes(), b",\"status\":200,\"data\":", data, b"}\r\n"];
    parts.concat()
}

/// The ledger's thread: one commit for everything that is queued.
fn keep(path: &str, trades: Receiver<Trade>, booked: UnboundedSender<Vec<Trade>>) {
    let mut database = Database::open(path).expect("the ledger can't be opened");
    database.execute_batch(include_str!("../../schema.sql")).expect("no schema");
    while let Ok(first) = trades.recv() {
        let mut batch = vec![first];
        batch.extend(trades.try_iter());
        commit(&mut database, &batch).expect("the commit failed");
        if booked.send(batch).is_err() {
            return;
        }
    }
}

fn commit(database: &mut Database, batch: &[Trade]) -> rusqlite::Result<()> {
    let transaction = database.transaction()?;
    {
        let mut trade = transaction.prepare_cached(
            "INSERT INTO trade VALUES (?1, ?2, 7, 3, ?3, ?4, ?5, ?5, ?5)",
        )?;
        let mut account = transaction.prepare_cached(
            "INSERT INTO account VALUES (?1, ?2) ON CONFLICT (login)
             DO UPDATE SET credit = credit + excluded.credit",
        )?;
        for t in batch {
            trade.execute(params![t.order, t.login, t.profit, t.comment, t.time])?;
            account.execute(params![t.login, t.profit])?;
        }
    }
    transaction.commit()
}

async fn publish(server: Shared, mut booked: UnboundedReceiver<Vec<Trade>>) {
    let mut touched = HashSet::new();
    while let Some(batch) = booked.recv().await {
        let mut server = server.borrow_mut();
        for trade in &batch {
            server.publish(trade, &mut touched);
        }
        for connection in touched.drain() {
            server.flush(connection);
        }
    }
}

async fn expire(server: Shared, armed: Rc<Notify>) {
    loop {
        let next = server.borrow_mut().expire();
        match next {
            Some(due) => tokio::time::sleep_until(due.into()).await,
            None => armed.notified().await,
        }
    }
}

/// Read one connection's lines until it ends.
async fn converse(server: Shared, id: usize, stream: Rc<TcpStream>) {
    let mut input = Vec::with_capacity(MOST_IN_A_LINE);
    while stream.readable().await.is_ok() {
        match stream.try_read_buf(&mut input) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
            Err(_) => break,
        }
        let end = input.iter().rposition(|each| *each == b'\n').map_or(0, |at| at + 1);
        let mut server = server.borrow_mut();
        for line in input[..end].split(|each| *each == b'\n') {
            if !line.is_empty() {
                server.take(id, line);
            }
        }
        server.flush(id);
        input.drain(..end);
        if input.len() > MOST_IN_A_LINE {
            break;
        }
    }
    server.borrow_mut().forget(id);
}

/// Continue sending when a full socket is writable again.
async fn send(server: Shared, id: usize, stream: Rc<TcpStream>, writable: Rc<Notify>) {
    loop {
        writable.notified().await;
        if !server.borrow().connections.contains_key(&id) || stream.writable().await.is_err() {
            return;
        }
        server.borrow_mut().flush(id);
    }
}

async fn serve(port: u16, key: Vec<u8>, path: String) {
    let (ledger, trades) = channel();
    let (booked, bookings) = unbounded_channel();
    std::thread::spawn(move || keep(&path, trades, booked));
    let armed = Rc::new(Notify::new());
    let server = Rc::new(RefCell::new(Server {
        key,
        tokens: HashMap::new(),
        next_order: 1,
        next_connection: 0,
        connections: HashMap::new(),
        audience: HashSet::new(),
        waiters: HashMap::new(),
        due: VecDeque::new(),
        armed: armed.clone(),
        ledger,
    }));
    spawn_local(publish(server.clone(), bookings));
    spawn_local(expire(server.clone(), armed));
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is taken");
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let (stream, writable) = (Rc::new(stream), Rc::new(Notify::new()));
        let id = {
            let mut server = server.borrow_mut();
            server.next_connection += 1;
            let id = server.next_connection;
            let output = Vec::new();
            let (stream, writable) = (stream.clone(), writable.clone());
            server.connections.insert(id, Connection { stream, output, writable });
            server.audience.insert(id);
            id
        };
        spawn_local(converse(server.clone(), id, stream.clone()));
        spawn_local(send(server.clone(), id, stream, writable));
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let port = arguments[1].parse().expect("PORT is a number");
    let key = std::fs::read(&arguments[2]).expect("KEYFILE can't be read");
    let key = key.trim_ascii().to_vec();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("no runtime");
    LocalSet::new().block_on(&runtime, serve(port, key, arguments[3].clone()));
}
