// Add credit to an account, once, however often the request has to be repeated.
//
//   node client.js HOST:PORT TOKEN LOGIN AMOUNT COMMENT [KEY]
//
// It prints the booked trade: the data of its trade event. Without KEY it uses a
// fresh one. Exit status: 0, it is booked; 1, nothing has happened; 2, the outcome is
// unknown: run it again with the same KEY.
'use strict';

const crypto = require('crypto');
const net = require('net');

const REPLY_TIMEOUT = 10000; // milliseconds; longer than the server's own 5000
const PATIENCE = 60000; // over all tries
const FIRST_DELAY = 100;
const MAX_DELAY = 5000;

const AGAIN = [0, 429, 500, 503, 504]; // the same request may be accepted later
const FINAL = [400, 404, 409, 422]; // these rule out earlier tries too
const NOT_SENT = { status: 0, error: 'NOT_SENT', message: 'there is no connection' };
const NO_REPLY = { status: 0, error: 'NO_REPLY', message: 'the connection was lost' };

const sleep = (milliseconds) => new Promise((wake) => setTimeout(wake, milliseconds));

class Client {
  constructor(host, port, token) {
    Object.assign(this, { host, port, token });
    this.waiting = new Map(); // callbacks of pending requests, by extID
    this.connection = null;
  }

  // Resolves with the booked trade. The error that it rejects with says, in
  // mayBeBooked, whether the credit may have been booked.
  async creditIn(data, key) {
    let mayBeBooked = false;
    const deadline = Date.now() + PATIENCE;
    for (let delay = FIRST_DELAY; ; delay = Math.min(2 * delay, MAX_DELAY)) {
      const reply = await this.ask({ command: 'CreditInSync', idempotencyKey: key, data });
      if (reply.status === 200) return reply.data;
      mayBeBooked ||= reply === NO_REPLY || reply.status === 504;
      mayBeBooked &&= !FINAL.includes(reply.status);
      if (!AGAIN.includes(reply.status) || Date.now() > deadline) {
        const why = new Error(`${reply.status} ${reply.error}: ${reply.message}`);
        throw Object.assign(why, { mayBeBooked });
      }
      const pause = delay * (0.5 + Math.random() / 2);
      await sleep(Math.max(pause, reply.data?.retry_after_ms ?? 0));
    }
  }

  // One try: resolves with its reply, or with NOT_SENT or NO_REPLY.
  async ask(request) {
    const socket = await this.connected().catch(() => null);
    if (!socket) return NOT_SENT;
    const extID = crypto.randomUUID();
    const line = JSON.stringify({ ...request, extID, __token: this.token });
    const timer = setTimeout(() => socket.destroy(), REPLY_TIMEOUT);
    const reply = await new Promise((resolve) => {
      this.waiting.set(extID, resolve);
      socket.write(line + '\r\n');
    });
    clearTimeout(timer);
    return reply;
  }

  // The connection, or a new one if there is none.
  connected() {
    this.connection ??= new Promise((resolve, reject) => {
      let partial = '';
      const socket = net.connect(this.port, this.host, () => resolve(socket));
      socket.setNoDelay(true).setKeepAlive(true).setEncoding('utf8');
      socket.on('data', (text) => {
        const lines = (partial + text).split('\r\n');
        partial = lines.pop(); // not a whole line yet
        try {
          for (const line of lines) this.received(JSON.parse(line));
        } catch {
          socket.destroy(); // this is not a creditsync server
        }
      });
      socket.on('error', reject); // and then it closes
      socket.on('close', () => {
        this.connection = null;
        const lost = [...this.waiting.values()];
        this.waiting.clear();
        for (const resolve of lost) resolve(NO_REPLY);
      });
    });
    return this.connection;
  }

  received(message) {
    if ('event' in message) return; // any client's trade; ours comes as the reply
    this.waiting.get(message.extID)?.(message);
    this.waiting.delete(message.extID);
  }

  async close() {
    (await this.connection?.catch(() => null))?.end();
  }
}

async function main(address, token, login, amount, comment, key = crypto.randomUUID()) {
  const client = new Client(...address.split(':'), token);
  try {
    // JSON.stringify writes a double, which is exact up to 15 digits only.
    if (amount.replace(/\D/g, '').length > 15) throw new Error('AMOUNT has over 15 digits');
    const data = { login: Number(login), amount: Number(amount), comment };
    console.log(JSON.stringify(await client.creditIn(data, key)));
  } catch (why) {
    console.error(why.mayBeBooked ? `unknown, KEY ${key}: ${why.message}` : why.message);
    process.exitCode = why.mayBeBooked ? 2 : 1;
  }
  await client.close();
}

module.exports = { Client };
if (require.main === module) {
  const given = process.argv.slice(2);
  if (given.length < 5) {
    console.error('usage: node client.js HOST:PORT TOKEN LOGIN AMOUNT COMMENT [KEY]');
    process.exitCode = 1;
  } else {
    main(...given);
  }
}
