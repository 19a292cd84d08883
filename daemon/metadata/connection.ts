/**
 * The connection to `meta.db` by which this process changes and reads it, with statements that survive a reopening.
 *
 * When the past changes (an entry is taken back, a snapshot restored), every connection is closed, the files are
 * changed and the database is opened again. Statements of the old connection are finalized by SQLite then; those who
 * hold them are many and must not know. So each one is an object whose methods are replaced when it is prepared
 * anew: a call costs what a bound function costs (no difference could be measured).
 */

import type { DatabaseSync, SQLInputValue, StatementSync } from 'node:sqlite';
import { closeUntouched, openDatabase } from './open-database.ts';
import { type Query, query } from './rows.ts';

/** A prepared statement that changes something. */
export interface Command {
  run(...values: SQLInputValue[]): ReturnType<StatementSync['run']>;
}

export interface Connection {
  /** A statement whose rows are arrays. */
  query(sql: string): Query;
  command(sql: string): Command;
  exec(sql: string): void;
  isTransaction(): boolean;
  /** Rolls back what is not committed and closes; the WAL and the database file stay as they are. */
  closeUntouched(): void;
  /** Closes; the last connection of all moves the WAL into the database file. */
  close(): void;
  /** After `closeUntouched`: opens the file that is there now and prepares every statement anew. */
  reopen(): void;
}

/** Errors: as `openDatabase`. */
export function openConnection(file: string, create: boolean): Connection {
  let database: DatabaseSync = openDatabase(file, create);
  const prepares: (() => void)[] = [];

  function prepared<T extends object>(prepare: () => T): T {
    const statement = prepare();
    prepares.push(() => Object.assign(statement, prepare()));
    return statement;
  }

  return {
    query: (sql) =>
      prepared((): Query => {
        const statement = query(database, sql);
        return {
          get: statement.get.bind(statement),
          all: statement.all.bind(statement),
          iterate: statement.iterate.bind(statement),
        };
      }),
    command: (sql) =>
      prepared((): Command => {
        const statement = database.prepare(sql);
        return { run: statement.run.bind(statement) };
      }),
    exec: (sql) => database.exec(sql),
    isTransaction: () => database.isOpen && database.isTransaction,
    closeUntouched() {
      if (!database.isOpen) return;
      if (database.isTransaction) database.exec('ROLLBACK');
      closeUntouched(database, file);
    },
    close() {
      if (database.isOpen) database.close();
    },
    reopen() {
      database = openDatabase(file, false);
      for (const prepare of prepares) prepare();
    },
  };
}
