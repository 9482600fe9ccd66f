// A client that reads as the platform's own clients do, with the worst habit of
// each. It takes requests as lines on its standard input, and writes lines of
// [what, message] to its standard output: "reply", "event" or "complaint".
//
//   node platform_client.js PORT
'use strict';

const net = require('net');
const readline = require('readline');

const pending = new Map(); // compares strictly: 1 is not "1"
let received = '';

function say(what, message) {
  process.stdout.write(JSON.stringify([what, message]) + '\n');
}

// What they do to a line before they parse it.
function repaired(line) {
  return line
    .replace(/[\n\r\t]/g, '')
    .replace(/,\s*}/g, '}')
    .replace(/,\s*]/g, ']')
    .replace(/'/g, '"')
    .trim();
}

// A packet becomes text by itself, without the one before it.
function packetReceived(packet) {
  received += packet.toString();
  const end = received.lastIndexOf('\r\n');
  if (end === -1) return;
  const lines = received.slice(0, end).split('\r\n');
  received = received.slice(end + 2);
  lines.forEach(lineReceived);
}

function lineReceived(line) {
  let message;
  try {
    message = JSON.parse(repaired(line));
  } catch (why) {
    say('complaint', `${why.message}: ${line}`);
    return;
  }
  if ('event' in message) {
    say('event', message);
  } else if (pending.delete(message.extID)) {
    say('reply', message);
  } else {
    say('complaint', `nobody waits for this: ${line}`);
  }
}

const socket = net.connect(Number(process.argv[2]), '127.0.0.1');
socket.setNoDelay(true);
// Whatever the network made of it, each byte comes as a packet of its own.
socket.on('data', (data) => data.forEach((byte) => packetReceived(Buffer.from([byte]))));
socket.on('close', () => say('complaint', 'the connection was closed'));

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const request = JSON.parse(line);
  pending.set(request.extID, true);
  // Characters as they are, and not escaped, as JSON.stringify writes them.
  for (const byte of Buffer.from(JSON.stringify(request) + '\r\n')) {
    socket.write(Buffer.from([byte]));
  }
}).on('close', () => process.exit());
