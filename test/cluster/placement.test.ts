import assert from 'node:assert/strict';
import { hash as digest } from 'node:crypto';
import test from 'node:test';
import { placedNodes } from '../../daemon/cluster/placed-nodes.ts';
import { placementOf } from '../../daemon/cluster/placement.ts';
import type { Member } from '../../daemon/protocol/cluster.ts';
import type { ChunkHash, NodeId } from '../../daemon/protocol/ids.ts';

const hashes = Array.from({ length: 20_000 }, (_, index) => digest('sha256', `chunk ${index}`) as ChunkHash);
const ids = (count: number) => Array.from({ length: count }, (_, index) => `node-${index}` as NodeId);
const placed = (nodes: readonly NodeId[], factor: number) =>
  placementOf({ mode: 'replicated', factor, leader: null, nodes: nodes.map((id) => ({ id })) });

function members(
  count: number,
  change: (member: Member, index: number) => Partial<Member> = () => ({}),
): Member[] {
  return ids(count).map((id, number) => {
    const member: Member = { id, number, role: 'auto', address: '', state: 'active', key: '' };
    return { ...member, ...change(member, number) };
  });
}

test('every node gets its share of chunks, and each chunk has different homes', () => {
  const nodes = ids(7);
  const placement = placed(nodes, 3);
  const counts = new Map(nodes.map((id) => [id, 0]));
  for (const hash of hashes) {
    const homes = placement.homes(hash);
    assert.equal(new Set(homes).size, 3);
    for (const id of homes) counts.set(id, counts.get(id)! + 1);
    for (const id of nodes) assert.equal(placement.isHome(hash, id), homes.includes(id));
  }
  const share = (hashes.length * 3) / 7;
  // Standard deviation of a binomial share is below 1 %; five of them.
  for (const [id, count] of counts)
    assert.ok(Math.abs(count - share) < share * 0.05, `${id}: ${count} of ${share}`);
});

test('the order does not depend on the order in which nodes are given', () => {
  const nodes = ids(5);
  for (const hash of hashes.slice(0, 200))
    assert.deepEqual(placed(nodes, 2).order(hash), placed(nodes.toReversed(), 2).order(hash));
});

test('a node that comes or goes moves only its own chunks', () => {
  const before = placed(ids(6), 3);
  const after = placed(ids(7), 3);
  let moved = 0;
  for (const hash of hashes) {
    const stays = before.homes(hash).filter((id) => after.homes(hash).includes(id));
    const comes = after.homes(hash).filter((id) => !before.homes(hash).includes(id));
    if (comes.length === 0) continue;
    moved += 1;
    assert.deepEqual(comes, ['node-6']);
    assert.equal(stays.length, 2);
    // Whoever stands in for a home is next in the order: the same copy moves back.
    assert.equal(after.order(hash).filter((id) => id !== 'node-6')[2], before.homes(hash)[2]);
  }
  const expected = (hashes.length * 3) / 7;
  assert.ok(Math.abs(moved - expected) < expected * 0.05, `${moved} of ${expected} moved`);
});

test('weights share chunks in proportion', () => {
  const nodes = ids(3).map((id, index) => ({ id, weight: index === 0 ? 2 : 1 }));
  const placement = placementOf({ mode: 'replicated', factor: 1, leader: null, nodes });
  const heavy = hashes.filter((hash) => placement.isHome(hash, 'node-0' as NodeId)).length;
  assert.ok(Math.abs(heavy - hashes.length / 2) < hashes.length * 0.02, `${heavy} of ${hashes.length}`);
});

test('scores are the same in every release', () => {
  const order = placed(ids(5), 3).order(digest('sha256', 'warren') as ChunkHash);
  assert.deepEqual(order, ['node-3', 'node-4', 'node-1', 'node-0', 'node-2']);
});

test('fewer nodes than the factor: all are homes; shared: the leader alone', () => {
  const hash = hashes[0]!;
  assert.equal(placed(ids(2), 3).copies, 2);
  assert.deepEqual(placed(ids(2), 3).homes(hash).sort(), ids(2));
  const nodes = ids(4).map((id) => ({ id }));
  const shared = placementOf({ mode: 'shared', factor: 3, leader: 'node-2' as NodeId, nodes });
  assert.deepEqual([shared.copies, shared.homes(hash), shared.order(hash)[0]], [1, ['node-2'], 'node-2']);
  assert.equal(shared.order(hash).length, 4);
  assert.deepEqual(placementOf({ mode: 'shared', factor: 3, leader: null, nodes }).homes(hash), []);
});

test('a dead node is replaced after the grace time, and not while more than a third is away', () => {
  const away = new Map<string, number>();
  const look = (count: number) =>
    placedNodes({
      self: 'node-0' as NodeId,
      members: members(count),
      awayMs: (id) => away.get(id),
      graceMs: 1000,
    });
  away.set('node-1', 999);
  assert.deepEqual([look(4).dead, look(4).placed.length, look(4).away], [[], 4, ['node-1']]);
  away.set('node-1', 1000);
  assert.deepEqual([look(4).dead, look(4).placed.length, look(4).braked], [['node-1'], 3, false]);
  assert.equal(look(4).storing.length, 4);
  // One of three is a third and not more; two of four are.
  assert.deepEqual(look(3).dead, ['node-1']);
  assert.deepEqual([look(2).dead, look(2).braked], [[], true]);
  away.set('node-2', 10);
  assert.deepEqual([look(4).dead, look(4).placed.length, look(4).braked], [[], 4, true]);
  assert.deepEqual(look(6).dead, ['node-1']);
});

test('draining nodes and clients are no homes; removed ones are nothing', () => {
  const state = placedNodes({
    self: 'node-0' as NodeId,
    members: members(5, (_, index) =>
      index === 1
        ? { state: 'draining' }
        : index === 2
          ? { state: 'removed' }
          : index === 3
            ? { role: 'client' }
            : {},
    ),
    awayMs: () => undefined,
    graceMs: 1000,
  });
  assert.deepEqual(state.placed, ['node-0', 'node-4']);
  assert.deepEqual(state.storing, ['node-0', 'node-1', 'node-4']);
  assert.deepEqual(state.draining, ['node-1']);
});
