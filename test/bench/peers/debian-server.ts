import { execFile, spawn } from "node:child_process";
import { closeSync, existsSync, openSync } from "node:fs";
import { chown, mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { freePort } from "../../../src/embedded/ports.ts";
import { endWithUs, signal, waitUntil } from "../../../src/embedded/processes.ts";
import { serverUser } from "../../../src/embedded/server-user.ts";
import { logTail } from "../../../src/embedded/server.ts";
import type { BenchServer } from "../bench-server.ts";
import { serverSettings } from "../servers.ts";
import { until, withClient } from "../sql.ts";

const run = promisify(execFile);
const bin = "/usr/lib/postgresql/15/bin";

/** Whether Debian's packages postgresql-15 and postgresql-15-pglogical are there. */
export const pglogicalInstalled = (): boolean =>
  existsSync(`${bin}/postgres`) && existsSync("/usr/share/postgresql/15/extension/pglogical.control");

/** Over {@link serverSettings}: what the embedded servers have as well, and the extension. */
const settings: Readonly<Record<string, string>> = {
  ...serverSettings,
  listen_addresses: "127.0.0.1",
  unix_socket_directories: "",
  wal_level: "logical",
  max_wal_senders: "64",
  max_replication_slots: "64",
  jit: "off",
  TimeZone: "UTC",
  shared_preload_libraries: "pglogical",
};

export interface DebianServer extends BenchServer, AsyncDisposable {}

/** PostgreSQL 15 of Debian with pglogical, made in `folder` and ended with us. */
export const startDebianServer = async (folder: string, name: string): Promise<DebianServer> => {
  const { ids } = serverUser();
  const data = await mkdtemp(join(folder, `${name}-`));
  const logFile = join(folder, `${name}.log`);
  if ("uid" in ids && ids.uid !== undefined) await chown(data, ids.uid, ids.gid);
  const flags = ["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"];
  await run(`${bin}/initdb`, ["-D", data, ...flags], { ...ids, cwd: "/" });
  const port = await freePort();
  const log = openSync(logFile, "a");
  const options = Object.entries(settings).flatMap(([key, value]) => ["-c", `${key}=${value}`]);
  const child = spawn(`${bin}/postgres`, ["-D", data, "-p", String(port), ...options], {
    ...ids,
    cwd: "/",
    detached: true,
    stdio: ["ignore", log, log],
  });
  closeSync(log);
  child.unref();
  const { pid } = child;
  if (pid === undefined) throw new Error(`${bin}/postgres does not start`);
  const guard = endWithUs(pid, { signal: "QUIT", remove: [data] });
  const url = (database = "postgres"): string => `postgres://postgres@127.0.0.1:${port}/${database}`;
  const answers = (): Promise<boolean> =>
    withClient(url(), () => Promise.resolve(true)).catch(() => child.exitCode !== null);
  await until("PostgreSQL 15 answers", answers, { everyMs: 50, timeoutMs: 30_000 });
  if (child.exitCode !== null) throw new Error(`PostgreSQL 15 has ended:\n${await logTail(logFile)}`);
  return {
    port,
    pid,
    logFile,
    url,
    [Symbol.asyncDispose]: async () => {
      child.ref();
      signal(pid, "SIGQUIT");
      await waitUntil(() => child.exitCode !== null || child.signalCode !== null, 10_000);
      guard.release();
      await rm(data, { recursive: true, force: true });
    },
  };
};
