/** Discovery in a process of its own, inside a network namespace: prints each hint as a line `id address`. */

import { openDiscovery } from '../../daemon/cluster/discovery.ts';
import type { NodeId } from '../../daemon/protocol/ids.ts';
import { systemClock } from '../../daemon/runtime/clock.ts';
import { openLog } from '../../daemon/runtime/log.ts';

const [nodeId = '', clusterId = '', port = '0'] = process.argv.slice(2);
await openDiscovery({
  discovery: 'udp://239.255.0.1:9501',
  nodeId: nodeId as NodeId,
  clusterId,
  port: Number(port),
  onHint: (id, address) => process.stdout.write(`${id} ${address}\n`),
  clock: systemClock(),
  log: openLog({ format: 'text', level: 'warn' }),
});
