/** The leader's side of a join, once the member list has the new node: its certificate and what it must know. */

import type { Member } from '../protocol/cluster.ts';
import { defined } from '../runtime/assert.ts';
import { issueCertificate } from './certificates.ts';
import { authorityOf, type Identity } from './identity.ts';
import type { Admission, JoinRequest } from './join-messages.ts';

/** Errors: IDENTITY_CANNOT_ISSUE. */
export async function admitNode(options: {
  readonly identity: Identity;
  readonly request: JoinRequest;
  /** With the new node. */
  readonly members: readonly Member[];
  readonly membersVersion: number;
  readonly clusterName: string;
  readonly nowMs: number;
}): Promise<Admission> {
  const { identity, request, members, membersVersion, clusterName, nowMs } = options;
  const authority = authorityOf(identity);
  const { clusterId } = identity;
  const member = members.find(({ id }) => id === request.node);
  const stores = request.role !== 'client';
  const certificate = await issueCertificate({
    authority,
    publicKey: request.request,
    id: request.node,
    clusterId,
    nowMs,
    longLived: !stores,
  });
  return {
    kind: 'admitted',
    certificate,
    authority: authority.certificate,
    authorityKey: stores ? authority.key : null,
    clusterId,
    clusterName,
    number: defined(member, `"${request.node}" is in the member list`).number,
    members: [...members],
    membersVersion,
  };
}
