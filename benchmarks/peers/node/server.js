// What a team that knows Node.js would write: net, ajv, better-sqlite3, and one
// commit for everything that was queued in one turn of the event loop.
//
// node server.js PORT KEYFILE LEDGER SCHEMAS SCHEMA.SQL

'use strict';

const crypto = require('crypto');
const fs = require('fs');
const net = require('net');
const path = require('path');
const Ajv = require('ajv/dist/2020');
const Database = require('better-sqlite3');

const [port, keyFile, ledger, schemas, tables] = process.argv.slice(2);
const key = fs.readFileSync(keyFile, 'utf8').trim();

const TIMEOUT = 5000;
const MOST_UNREAD = 4 << 20;
const MOST_IN_A_LINE = 65536;
const UNITS = 1e8;

// Schemas

const ajv = new Ajv({ strict: false });
const schema = (name) =>
  JSON.parse(fs.readFileSync(path.join(schemas, `${name}.json`), 'utf8'));
ajv.addSchema(schema('common'));
const isRequest = ajv.compile(schema('request'));
const isCredit = ajv.compile(schema('credit_in'));
const isSubscription = ajv.compile(schema('subscribe'));

// Ledger

const database = new Database(ledger);
database.exec(fs.readFileSync(tables, 'utf8'));
const insertTrade = database.prepare(
  'INSERT INTO trade VALUES (?, ?, 7, 3, ?, ?, ?, ?, ?)'
);
const moveAccount = database.prepare(
  `INSERT INTO account VALUES (?, ?) ON CONFLICT (login)
   DO UPDATE SET credit = credit + excluded.credit`
);
const book = database.transaction((batch) => {
  for (const { order, login, profit, comment, time } of batch) {
    insertTrade.run(order, login, profit, comment, time, time, time);
    moveAccount.run(login, profit);
  }
});

// Tokens

const remembered = new Map();

function authenticate(token) {
  const expires = remembered.get(token) ?? verify(token);
  if (Date.now() / 1000 >= expires) throw new Error('the token has expired');
}

function verify(token) {
  const [header, payload, signature] = String(token).split('.');
  const read = (part) => JSON.parse(Buffer.from(part, 'base64url').toString());
  if (read(header).alg !== 'HS256') throw new Error('the algorithm is not accepted');
  const good = crypto.createHmac('sha256', key).update(`${header}.${payload}`).digest();
  const given = Buffer.from(signature, 'base64url');
  if (good.length !== given.length || !crypto.timingSafeEqual(good, given)) {
    throw new Error('the token is badly signed');
  }
  const { exp, role } = read(payload);
  if (role < 1 || role > 3) throw new Error('the role may not do this');
  remembered.set(token, exp);
  return exp;
}

// Requests

const audience = new Set();
const waiters = new Map();
let queue = [];
let nextOrder = 1;

function take(socket, line) {
  let request = {};
  try {
    request = JSON.parse(line);
    if (!isRequest(request)) throw new Error(ajv.errorsText(isRequest.errors));
    authenticate(request.__token);
    execute(socket, request);
  } catch (e) {
    say(socket, { extID: request.extID, status: 400, error: 'INVALID_DATA', message: e.message });
  }
}

function execute(socket, { command, extID, data }) {
  if (command === 'CreditInSync') {
    credit(socket, extID, data);
  } else if (command === 'Subscribe' || command === 'Unsubscribe') {
    if (!isSubscription(data)) throw new Error(ajv.errorsText(isSubscription.errors));
    if (command === 'Subscribe') audience.add(socket);
    else audience.delete(socket);
    say(socket, { extID, status: 200, data: {} });
  } else {
    throw new Error('no such command');
  }
}

function credit(socket, extID, data) {
  if (!isCredit(data)) throw new Error(ajv.errorsText(isCredit.errors));
  const profit = Math.round(data.amount * UNITS);
  if (profit / UNITS !== data.amount) throw new Error('data.amount has over 8 decimals');
  const order = nextOrder++;
  const timer = setTimeout(timedOut, TIMEOUT, order);
  waiters.set(order, { socket, extID, timer });
  if (!queue.length) setImmediate(commit);
  const time = Math.floor(Date.now() / 1000);
  queue.push({ order, login: data.login, profit, comment: data.comment, time });
}

function timedOut(order) {
  const { socket, extID } = waiters.get(order);
  waiters.delete(order);
  const message = 'no answer within 5000 ms';
  say(socket, { extID, status: 504, error: 'SYNC_TIMEOUT', message, data: { order } });
}

function commit() {
  const batch = queue;
  queue = [];
  book(batch);
  batch.forEach(publish);
}

// Events and replies

// JSON.stringify has no 0.0.
const decimal = (value) => (Number.isInteger(value) ? `${value}.0` : `${value}`);

function encoded({ order, login, profit, comment, time }) {
  return (
    `{"order":${order},"login":${login},"cmd":7,"state":3` +
    `,"profit":${decimal(profit / UNITS)},"comment":${JSON.stringify(comment)}` +
    ',"symbol":"","volume":0,"open_price":0.0,"close_price":0.0' +
    `,"open_time":${time},"close_time":${time},"sl":0.0,"tp":0.0,"storage":0.0` +
    `,"commission":0.0,"reason":7,"timestamp":${time}` +
    // Each order has one event, so this is the event's place as well.
    `,"cursor":"9f3c1a7e-${order}"}`
  );
}

function publish(trade) {
  const data = encoded(trade);
  if (audience.size) {
    const event = `{"event":"trade:event","type":0,"data":${data}}\r\n`;
    for (const socket of audience) write(socket, event);
  }
  const waiter = waiters.get(trade.order);
  if (!waiter) return;
  waiters.delete(trade.order);
  clearTimeout(waiter.timer);
  write(
    waiter.socket,
    `{"extID":${JSON.stringify(waiter.extID)},"status":200,"data":${data}}\r\n`
  );
}

function say(socket, message) {
  write(socket, `${JSON.stringify(message)}\r\n`);
}

// Lines of one turn are joined into one write.
const unwritten = new Map();

function write(socket, text) {
  if (!unwritten.size) process.nextTick(flush);
  unwritten.set(socket, (unwritten.get(socket) ?? '') + text);
}

function flush() {
  for (const [socket, text] of unwritten) {
    if (socket.destroyed) continue;
    socket.write(text);
    if (socket.writableLength > MOST_UNREAD) socket.destroy();
  }
  unwritten.clear();
}

// Connections

net
  .createServer({ noDelay: true }, (socket) => {
    let partial = '';
    audience.add(socket);
    socket.setEncoding('utf8');
    socket.on('data', (chunk) => {
      const lines = (partial + chunk).split('\n');
      partial = lines.pop();
      for (const line of lines) if (line.trim()) take(socket, line);
      if (partial.length > MOST_IN_A_LINE) socket.destroy();
    });
    socket.on('error', () => {});
    socket.on('close', () => audience.delete(socket));
  })
  .listen({ port: Number(port), host: '127.0.0.1', backlog: 1024 });
process.on('SIGTERM', () => process.exit(0));
