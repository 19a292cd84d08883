/**
 * A node in a process of its own, to be killed or stopped: reads `{ identity, members }` from standard input, listens,
 * and prints where.
 */

import { text } from 'node:stream/consumers';
import type { Identity } from '../../daemon/peers/identity.ts';
import { openPeers } from '../../daemon/peers/peers.ts';
import type { Member } from '../../daemon/protocol/cluster.ts';
import type { Version } from '../../daemon/protocol/ids.ts';
import { systemClock } from '../../daemon/runtime/clock.ts';
import { openLog } from '../../daemon/runtime/log.ts';

const { identity, members } = JSON.parse(await text(process.stdin)) as {
  identity: Identity;
  members: Member[];
};
const peers = await openPeers({
  identity,
  bind: '127.0.0.1:0',
  clock: systemClock(),
  log: openLog({ format: 'text', level: 'error' }),
  onJoin: async () => ({ kind: 'elsewhere', address: null }),
});
const own: Member = {
  id: identity.nodeId,
  number: 7,
  role: 'auto',
  address: peers.address,
  state: 'active',
  key: identity.fingerprint,
};
peers.setMembers([...members, own], 2 as Version);
process.stdout.write(`${peers.address}\n`);
