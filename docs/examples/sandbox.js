// A creditsync sandbox for the tests of an integrator, in a process of its own.
//
//   const { startSandbox } = require('./sandbox.js');
//   const sandbox = await startSandbox();
//   ... connect to sandbox.port with sandbox.token ...
//   await sandbox.fault({ name: 'lose-reply', times: 1 });
//   await sandbox.stop();
//
// It needs the command creditsync; the environment variable CREDITSYNC may have
// another one, such as "python -m creditsync".
'use strict';

const { execFileSync, spawn } = require('child_process');
const fs = require('fs');
const net = require('net');
const os = require('os');
const path = require('path');

const [COMMAND, ...FIRST] = (process.env.CREDITSYNC || 'creditsync').split(' ');
const PATIENCE = 30000; // milliseconds that a start or a reply may take

class Sandbox {
  constructor(child, folder, port) {
    Object.assign(this, { child, folder, port, host: '127.0.0.1' });
    this.token = this.tokenOf('manager', 7);
    this.admin = this.tokenOf('admin', 1);
  }

  // A token that is valid for a day.
  tokenOf(role, id) {
    const key = path.join(this.folder, 'creditsync.key');
    const options = ['token', '--key', key, '--id', String(id), '--role', role];
    return execFileSync(COMMAND, [...FIRST, ...options], { encoding: 'utf8' }).trim();
  }

  // Ask as an admin, on a connection of its own; resolves with the data of the reply.
  ask(command, data) {
    return new Promise((resolve, reject) => {
      const socket = net.connect(this.port, this.host).setEncoding('utf8');
      socket.setTimeout(PATIENCE, () => socket.destroy(new Error('no reply')));
      let partial = '';
      socket.on('error', reject);
      socket.on('close', () => reject(new Error(`${command}: no reply`)));
      socket.on('data', (text) => {
        const lines = (partial + text).split('\r\n');
        partial = lines.pop();
        const reply = lines.map((line) => JSON.parse(line)).find((it) => it.extID === 1);
        if (!reply) return;
        if (reply.status === 200) resolve(reply.data);
        else reject(new Error(`${reply.status} ${reply.error}: ${reply.message}`));
        socket.destroy();
      });
      socket.write(JSON.stringify({ command, extID: 1, __token: this.admin, data }) + '\r\n');
    });
  }

  // Set a fault: { name, rate, after, times, seconds, commands }.
  fault(setting) {
    return this.ask('SandboxFault', setting);
  }

  // Let nothing go wrong any more.
  reset() {
    return this.ask('SandboxFault', { reset: true });
  }

  // Stop it in order, and remove its files.
  async stop() {
    const ended = new Promise((resolve) => this.child.once('exit', resolve));
    if (this.child.exitCode === null && this.child.kill('SIGTERM')) await ended;
    fs.rmSync(this.folder, { recursive: true, force: true });
  }
}

// Start one on a free port, with the account 1001 of the group "real". The options are
// those of creditsync sandbox.
async function startSandbox(options = []) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'creditsync-sandbox-'));
  const place = ['--listen', 'tcp:0:interface=127.0.0.1'];
  const child = spawn(COMMAND, [...FIRST, 'sandbox', ...place, ...options], { cwd: folder });
  const port = await new Promise((resolve, reject) => {
    let log = '';
    const told = (text) => {
      log += text;
      const found = /The sandbox is ready on port (\d+)\./.exec(log);
      if (found) resolve(Number(found[1]));
    };
    child.stdout.on('data', told);
    child.stderr.on('data', told);
    child.once('error', reject);
    child.once('exit', () => reject(new Error(`the sandbox does not start:\n${log}`)));
  });
  const sandbox = new Sandbox(child, folder, port);
  await sandbox.reset();
  await sandbox.ask('MngSetAccountGroup', { login: 1001, group: 'real' });
  return sandbox;
}

module.exports = { startSandbox };
