/**
 * The leader's side of forwarded proposals: each is done once, however often and late it arrives.
 *
 * A session numbers its proposals and says with each which one it sent before (so that order is kept over a lost
 * connection) and which is the oldest that it still waits for (so that what is below can be forgotten, and one that
 * comes later than that is not done). This lives as long as the leadership: a message for another one is refused.
 */

import { FsError } from '../protocol/errors.ts';
import type { Version } from '../protocol/ids.ts';
import type { ForwardAnswer, ForwardRequest } from '../protocol/peer-api.ts';
import type { Context } from './context.ts';
import { kernelsTold } from './kernels.ts';
import type { Leading } from './leading.ts';

/** Remembered answers of a session that never says what it still waits for. */
const ANSWERS_MAX = 4096;

interface Session {
  readonly answers: Map<number, Promise<ForwardAnswer>>;
  highest: number;
  oldest: number;
}

export interface Forwards {
  answer(request: ForwardRequest, bytes: Buffer): Promise<ForwardAnswer>;
}

export function forwardedTo(leading: Leading, context: Context): Forwards {
  const { state, self } = context;
  const sessions = new Map<string, Session>();

  function perform(request: ForwardRequest, bytes: Buffer): Promise<ForwardAnswer> {
    let version: Version;
    try {
      const { operation, payload } = state.decodeProposal(bytes);
      // A client repeats through another node, or under another leader, what is in the log already.
      version =
        context.doneAs(request.tag) ?? leading.propose({ operation, payload, tag: request.tag }).version;
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      const { code, message } = error;
      return Promise.resolve({ kind: 'refused', code, message, version: state.position().version });
    }
    const told = kernelsTold(context);
    return new Promise((resolve) =>
      leading.wait(version, request.durable, (reached) => {
        const answer: ForwardAnswer = reached
          ? { kind: 'accepted', version }
          : { kind: 'not-leader', leader: null, epoch: leading.epoch };
        if (told === undefined) resolve(answer);
        else void told.then(() => resolve(answer));
      }),
    );
  }

  return {
    answer(request, bytes) {
      const { session: name, sequence } = request.tag;
      let session = sessions.get(name);
      if (session === undefined) {
        sessions.set(name, (session = { answers: new Map(), highest: 0, oldest: 0 }));
      }
      const known = session.answers.get(sequence);
      if (known !== undefined) return known;
      if (sequence < session.oldest) {
        return Promise.resolve({ kind: 'not-leader', leader: self, epoch: leading.epoch });
      }
      if (request.previous > session.highest) return Promise.resolve({ kind: 'out-of-order' });
      for (; session.oldest < request.oldest; session.oldest++) session.answers.delete(session.oldest);
      if (session.answers.size >= ANSWERS_MAX) {
        const [first] = session.answers.keys();
        if (first !== undefined) session.answers.delete(first);
      }
      const answer = perform(request, bytes);
      session.answers.set(sequence, answer);
      session.highest = Math.max(session.highest, sequence);
      return answer;
    },
  };
}
