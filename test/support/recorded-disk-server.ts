/**
 * The process behind a recorded disk (recorded-disk.ts): serves one file through FUSE, which a loop device makes a
 * disk of, and appends every write and every flush to a record before it is answered.
 * `recorded-disk-server.ts IMAGE MOUNT_POINT RECORD JOURNAL`; it ends with its mount.
 *
 * The mount's root is the file itself, so that there are no names. A process of its own with blocking reads: the
 * kernel writes here while the test waits for the file system above.
 */

import { spawn } from 'node:child_process';
import * as fs from 'node:fs';
import { OPCODE, S_IFREG, u64, word } from '../../daemon/fuse/kernel/protocol.ts';
import { encodeEvent } from './disk-record.ts';

const REQUEST_BYTES = 1024 * 1024 + 4096;
const WRITE_BYTES_MAX = 1024 * 1024;
const WRITE_DATA_OFFSET = 80;
const HEADER_BYTES = 16;
const BIG_WRITES = 1 << 5;
const MAX_PAGES = 1 << 22;
const MOUNT_TRIES = 1000;
const MOUNT_WAIT_MS = 10;
const ENOSYS = 38;
const NO_ANSWER: readonly number[] = [OPCODE.FORGET, OPCODE.INTERRUPT, OPCODE.BATCH_FORGET];

const [, , imagePath = '', mountPoint = '', recordPath = '', journalPath = ''] = process.argv;
const image = fs.openSync(imagePath, 'r+');
const record = fs.openSync(recordPath, 'a');
const device = fs.openSync('/dev/fuse', 'r+');
const options = `fd=3,rootmode=${S_IFREG.toString(8)},user_id=0,group_id=0,allow_other`;
spawn('mount', ['-i', '-t', 'fuse', '-o', options, 'recorded-disk', mountPoint], {
  stdio: ['ignore', 'inherit', 'inherit', device],
});

const request = Buffer.alloc(REQUEST_BYTES);
const words = new Uint32Array(request.buffer, request.byteOffset, REQUEST_BYTES / 4);

/** Undefined when the mount is gone. */
function next(): number | undefined {
  for (let tries = 0; ; tries++) {
    try {
      return fs.readSync(device, request);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'ENODEV') return undefined;
      // Before mount(2) has tied the descriptor to a mount.
      if (code === 'EPERM' && tries < MOUNT_TRIES) {
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, MOUNT_WAIT_MS);
      } else if (code !== 'ENOENT' && code !== 'EINTR' && code !== 'EAGAIN') throw error;
    }
  }
}

function answer(errno: number, body: Buffer = Buffer.alloc(0)): void {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32LE(HEADER_BYTES + body.length, 0);
  header.writeInt32LE(-errno, 4);
  request.copy(header, 8, 8, 16);
  fs.writevSync(device, [header, body]);
}

/** `fuse_attr_out` of the file. */
function attributes(): Buffer {
  const { size } = fs.fstatSync(image);
  const body = Buffer.alloc(104);
  body.writeBigUInt64LE(1n, 16);
  body.writeBigUInt64LE(BigInt(size), 24);
  body.writeBigUInt64LE(BigInt(size / 512), 32);
  body.writeUInt32LE(S_IFREG | 0o600, 76);
  body.writeUInt32LE(1, 80);
  body.writeUInt32LE(4096, 96);
  return body;
}

function greeting(): Buffer {
  const body = Buffer.alloc(64);
  body.writeUInt32LE(7, 0);
  body.writeUInt32LE(38, 4);
  body.writeUInt32LE(128 * 1024, 8);
  body.writeUInt32LE(BIG_WRITES | MAX_PAGES, 12);
  body.writeUInt16LE(16, 16);
  body.writeUInt16LE(12, 18);
  body.writeUInt32LE(WRITE_BYTES_MAX, 20);
  body.writeUInt32LE(1, 24);
  body.writeUInt16LE(WRITE_BYTES_MAX / 4096, 28);
  return body;
}

/** How far the load had come: what it had been promised before this event. */
function journalBytes(): number {
  return fs.existsSync(journalPath) ? fs.statSync(journalPath).size : 0;
}

function serve(opcode: number): void {
  switch (opcode) {
    case OPCODE.INIT:
      return answer(0, greeting());
    case OPCODE.GETATTR:
    case OPCODE.SETATTR:
      return answer(0, attributes());
    case OPCODE.OPEN:
      return answer(0, Buffer.alloc(16));
    case OPCODE.READ: {
      const body = Buffer.alloc(word(words, 14));
      const bytes = fs.readSync(image, body, 0, body.length, u64(words, 12));
      return answer(0, body.subarray(0, bytes));
    }
    case OPCODE.WRITE: {
      const offset = u64(words, 12);
      const data = request.subarray(WRITE_DATA_OFFSET, WRITE_DATA_OFFSET + word(words, 14));
      fs.writeSync(image, data, 0, data.length, offset);
      fs.writevSync(record, encodeEvent({ kind: 'write', journalBytes: journalBytes(), offset, data }));
      const body = Buffer.alloc(8);
      body.writeUInt32LE(data.length, 0);
      return answer(0, body);
    }
    case OPCODE.FSYNC:
      fs.writevSync(record, encodeEvent({ kind: 'flush', journalBytes: journalBytes() }));
      return answer(0);
    case OPCODE.STATFS:
      return answer(0, Buffer.alloc(80));
    case OPCODE.FLUSH:
    case OPCODE.RELEASE:
    case OPCODE.DESTROY:
      return answer(0);
    default:
      return answer(ENOSYS);
  }
}

while (next() !== undefined) {
  const opcode = word(words, 1);
  if (!NO_ANSWER.includes(opcode)) serve(opcode);
}
