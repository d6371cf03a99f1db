import { relative } from "node:path";
import { Client } from "pg";
import type { Topology } from "../../regions/topology.ts";
import { weightbookLatencyMs, weightbookRegions, type DemoRegion } from "../../regions/weightbook.ts";
import { exitCodes, OperatorError, type ExitCode } from "../errors.ts";
import type { CliContext } from "../cli/context.ts";
import { DemoCluster } from "./cluster.ts";
import { DemoFolder } from "./folder.ts";
import { elapsed, Narrator } from "./narrator.ts";
import { choosePorts } from "./ports.ts";
import { runCommand } from "./program.ts";
import { maxSeed } from "./random.ts";
import { showTakeover, type TakeoverReport } from "./takeover.ts";
import { tellWhatNext } from "./what-next.ts";
import {
  loadData,
  showPartition,
  showWrites,
  type LoadReport,
  type PartitionReport,
  type Tour,
  type VisibilityReport,
} from "./tour.ts";

export interface DemoOptions {
  /** Absolute. */
  readonly dataDir: string;
  /** End after the tour. */
  readonly once: boolean;
  readonly portBase?: number;
  readonly seed?: number;
}

/** What `demo --json` prints: all that was measured, in milliseconds. */
export interface DemoReport {
  readonly seed: number;
  readonly folder: string;
  readonly startMs: Readonly<Record<string, number>>;
  readonly load: LoadReport;
  readonly writes: readonly VisibilityReport[];
  readonly partition: PartitionReport;
  readonly takeover: TakeoverReport;
  readonly verifyCode: number;
}

/** The demo from start to end. @returns what the process ends with: the code of verify with `once` */
export const runDemo = async (context: CliContext, options: DemoOptions): Promise<ExitCode> => {
  const signal = context.interrupted();
  const narrator = new Narrator(context.output);
  await using folder = await DemoFolder.open(options.dataDir);
  const last = await folder.readSettings();
  const seed = options.seed ?? last?.seed ?? Math.floor(context.random() * maxSeed);
  const ports = await choosePorts(
    weightbookRegions.map(({ name }) => name),
    {
      ...(options.portBase !== undefined && { portBase: options.portBase }),
      ...(last !== null && { last: last.ports }),
    },
  );
  await folder.writeSettings({ seed, ports });
  narrator.say(
    `${narrator.color.bold("Coregent")}: three PostgreSQL masters on three continents, one database ` +
      narrator.color.dim(`(seed ${seed}, data in ${displayed(context, folder.path)})`),
  );
  const adminToken = await folder.adminToken();
  const cluster = new DemoCluster({ folder, ports, seed, adminToken });
  let verdict: ExitCode;
  try {
    verdict = await tourAndServe(context, {
      cluster,
      narrator,
      folder,
      seed,
      adminToken,
      once: options.once,
    });
  } catch (error) {
    narrator.working("stopping");
    await cluster[Symbol.asyncDispose]();
    throw signal.aborted && signal.reason instanceof OperatorError ? signal.reason : error;
  }
  narrator.working("stopping");
  await cluster[Symbol.asyncDispose]();
  narrator.say(`Stopped; the data are kept in ${displayed(context, folder.path)}.`);
  return verdict;
};

interface Parts {
  readonly cluster: DemoCluster;
  readonly narrator: Narrator;
  readonly folder: DemoFolder;
  readonly seed: number;
  readonly adminToken: string;
  readonly once: boolean;
}

const tourAndServe = async (context: CliContext, parts: Parts): Promise<ExitCode> => {
  const { cluster, narrator, folder, seed, adminToken, once } = parts;
  const signal = context.interrupted();
  const { startMs, topology } = await start(context, parts);
  signal.throwIfAborted();
  const sessions = await openSessions(cluster);
  try {
    const nowMs = context.clock.now();
    const tour: Tour = { cluster, narrator, seed, signal, sessions, adminToken, nowMs };
    const load = await loadData(tour);
    const writes = await showWrites(tour);
    const partition = await showPartition(tour);
    const takeover = await showTakeover(tour);
    const verifyCode = await verify(context, parts);
    const measured = { load, writes, partition, takeover };
    const report: DemoReport = { seed, folder: folder.path, startMs, ...measured, verifyCode };
    if (context.output.json) {
      context.output.result(report, () => "");
    }
    if (once) {
      return verifyCode;
    }
    tellWhatNext({
      narrator,
      cluster,
      topology,
      configFile: folder.configFile,
      adminTokenFile: folder.adminTokenFile,
      cwd: context.cwd,
    });
  } finally {
    await Promise.allSettled([...sessions.values()].map((client) => client.end()));
  }
  await keepRunning(context, parts);
  return exitCodes.ok;
};

const start = async (
  context: CliContext,
  { cluster, narrator }: Parts,
): Promise<{ startMs: Record<string, number>; topology: Topology }> => {
  const signal = context.interrupted();
  const startMs: Record<string, number> = {};
  narrator.chapter("Start: a PostgreSQL and an agent in each region");
  narrator.working("starting three PostgreSQL servers");
  await cluster.startServers((region, server, seconds) => {
    startMs[region.name] = seconds * 1000;
    narrator.line(
      region.name,
      `${region.city.padEnd(12)} PostgreSQL ${server.version} on port ${server.port}, ready in ${elapsed(seconds * 1000)}`,
    );
  });
  signal.throwIfAborted();
  const topology = await cluster.connect();
  narrator.line("network", `simulated round trips: ${roundTrips(weightbookRegions).join(", ")}`);
  narrator.working("creating Weightbook's tables and installing Coregent");
  startMs["install"] = await timed(() => cluster.prepare(() => install(context, topology)));
  narrator.line("init", `Weightbook's tables, and Coregent in all three, in ${elapsed(startMs["install"])}`);
  signal.throwIfAborted();
  narrator.working("starting three agents");
  startMs["agents"] = await timed(() => cluster.startAgents());
  narrator.line("agents", `all six links stream after ${elapsed(startMs["agents"])}`);
  return { startMs, topology };
};

const timed = async (work: () => Promise<unknown>): Promise<number> => {
  const started = performance.now();
  await work();
  return performance.now() - started;
};

const roundTrips = (regions: readonly DemoRegion[]): string[] =>
  regions.flatMap((from, index) =>
    regions.slice(index + 1).map((to) => `${from.name} - ${to.name} ${2 * weightbookLatencyMs(from, to)} ms`),
  );

const install = async (context: CliContext, topology: Topology): Promise<void> => {
  const report = await context.services.initCluster(topology, {
    signal: context.interrupted(),
    onProgress: () => undefined,
  });
  const critical = report.findings.find((finding) => finding.severity === "critical");
  if (critical !== undefined) {
    throw new Error(`${critical.region}: ${critical.message} (${critical.remedy})`);
  }
};

const openSessions = async (cluster: DemoCluster): Promise<Map<string, Client>> => {
  const sessions = new Map<string, Client>();
  for (const { region, url } of cluster.regions) {
    const client = new Client({ connectionString: url, application_name: "weightbook" });
    // The server is ours and is stopped after these; without a listener its end would end the process.
    client.on("error", () => undefined);
    await client.connect();
    sessions.set(region.name, client);
  }
  return sessions;
};

/** The very command that users run, and its own words. */
const verify = async (context: CliContext, { narrator, folder }: Parts): Promise<ExitCode> => {
  narrator.chapter("Proof: coregent verify");
  narrator.working("comparing all rows in all regions");
  const result = await runCommand(["verify", "--config", folder.configFile], {
    color: context.output.color.isColorSupported,
    signal: context.interrupted(),
  });
  // Its progress goes to standard error, and so do errors.
  const said = result.code === exitCodes.ok ? result.stdout : result.stdout + result.stderr;
  for (const text of said.trimEnd().split("\n")) {
    narrator.say(text === "" ? "" : `   ${text}`);
  }
  const known = Object.values(exitCodes).find((code) => code === result.code);
  return known ?? exitCodes.error;
};

/** Until Ctrl-C. What ends meanwhile (try `kill -9`) is started again. */
const keepRunning = async (context: CliContext, { cluster }: Parts): Promise<void> => {
  const signal = context.interrupted();
  while (!signal.aborted) {
    try {
      await cluster.revive((text) => context.output.note(text));
    } catch (error) {
      context.output.warn(error instanceof Error ? error.message : String(error));
    }
    await context.clock.sleep(500, signal).catch(() => undefined);
  }
};

const displayed = (context: CliContext, path: string): string => {
  const near = relative(context.cwd, path);
  return near === "" ? "." : near.startsWith("..") ? path : near;
};
