/**
 * Lets new machines into the cluster: makes tokens, and decides about those who come with one.
 *
 * Any storing node can admit, because each has the key of the authority: it knows the secrets that it gave out itself,
 * so a token leads to the node that made it. The member entry goes through the leader like every change; two nodes that
 * admit at one time may choose one number, and the second is refused and chooses again.
 */

import { admitNode } from './peers/admission.ts';
import type { Identity } from './peers/identity.ts';
import type { JoinHandler } from './peers/join-messages.ts';
import type { JoinSecrets } from './peers/join-secrets.ts';
import { makeToken } from './peers/token.ts';
import { MEMBER_NUMBER_MAX, type Member } from './protocol/cluster.ts';
import { FsError, WarrenError } from './protocol/errors.ts';
import type { Replication } from './replication/interface.ts';
import type { Clock } from './runtime/clock.ts';

const NUMBER_TRIES_MAX = 10;
/** What is in reach of this node is tried after its own address. */
const TOKEN_ADDRESSES_MAX = 8;

export interface AdmissionOptions {
  readonly identity: () => Identity;
  readonly clusterName: string;
  readonly secrets: JoinSecrets;
  readonly replication: () => Replication;
  readonly clock: Clock;
  /** Where this node is reached. */
  readonly address: () => string;
}

export interface Admission {
  readonly onJoin: JoinHandler;
  /** One new node may join with the answer, until `ttlMs` from now. */
  token(ttlMs: number): { token: string; expires: string };
}

export function openAdmission(options: AdmissionOptions): Admission {
  const { secrets, clock } = options;
  const nowMs = () => clock.now().seconds * 1000;
  return {
    async onJoin(request) {
      const replication = options.replication();
      const known = replication.members().find(({ id }) => id === request.node);
      if (known !== undefined && known.state !== 'removed' && known.key !== request.key) {
        throw new WarrenError({
          code: 'JOIN_NAME_TAKEN',
          message: `There is a node "${request.node}" in the cluster already.`,
          hint: `choose another name (--id), or remove that one first: warren node remove ${request.node}`,
        });
      }
      secrets.redeem(request.secret, request.key);
      const { node: id, role, address, key } = request;
      await addMember(replication, { id, role, address, key, state: 'active' });
      return admitNode({
        identity: options.identity(),
        request,
        members: replication.members(),
        membersVersion: replication.position().version,
        clusterName: options.clusterName,
        nowMs: nowMs(),
      });
    },
    token(ttlMs) {
      const { secret, record } = secrets.make(ttlMs);
      const self = options.identity().nodeId;
      const others = options
        .replication()
        .members()
        .filter(({ id, role, state }) => id !== self && role !== 'client' && state === 'active')
        .map(({ address }) => address);
      return {
        token: makeToken({
          addresses: [options.address(), ...others].slice(0, TOKEN_ADDRESSES_MAX),
          authorityFingerprint: options.identity().authorityFingerprint,
          secret,
          expiresMs: record.expiresMs,
        }),
        expires: new Date(record.expiresMs).toISOString(),
      };
    },
  };
}

/** Adds or renews a member; a new one gets the lowest number that nobody ever had. */
export async function addMember(replication: Replication, wanted: Omit<Member, 'number'>): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const members = replication.members();
    const known = members.find(({ id }) => id === wanted.id);
    const number = known?.number ?? Math.max(-1, ...members.map((member) => member.number)) + 1;
    if (number > MEMBER_NUMBER_MAX) {
      throw new WarrenError({
        code: 'CLUSTER_FULL',
        message: `A cluster has at most ${MEMBER_NUMBER_MAX + 1} nodes in its life, and this one had them.`,
        hint: 'a node that was removed can join again under its old name',
      });
    }
    try {
      await replication.propose({ kind: 'member', member: { ...wanted, number } });
      return;
    } catch (error) {
      const taken = error instanceof FsError && error.code === 'EEXIST';
      if (!taken || attempt >= NUMBER_TRIES_MAX) throw error;
    }
  }
}
