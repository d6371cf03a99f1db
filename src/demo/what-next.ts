import { basename, dirname, relative } from "node:path";
import type { Topology } from "../../regions/topology.ts";
import { defaultDataFolder } from "../config.ts";
import type { DemoCluster } from "./cluster.ts";
import type { Narrator } from "./narrator.ts";

export interface WhatNext {
  readonly narrator: Narrator;
  readonly cluster: DemoCluster;
  readonly topology: Topology;
  readonly configFile: string;
  readonly adminTokenFile: string;
  readonly cwd: string;
}

/** Where to connect, and what to try: lines that can be copied as they are. */
export const tellWhatNext = ({ narrator, cluster, configFile, adminTokenFile, cwd }: WhatNext): void => {
  const { color } = narrator;
  const config = foundByItself(configFile, cwd) ? "" : ` --config ${quoted(shown(configFile, cwd))}`;
  const data = dataOption(configFile, cwd);
  const [first, second] = cluster.regions;
  narrator.say();
  narrator.say(color.bold("It keeps running. Write in any region, read in any other:"));
  for (const { region, url } of cluster.regions) {
    narrator.line(region.name, `psql ${url}`);
  }
  narrator.say();
  narrator.say(color.bold("To try, in another terminal:"));
  const token = quoted(shown(adminTokenFile, cwd));
  const tips = [
    [
      `curl '${first?.agent.api ?? ""}/v1/tables/users/rows?limit=1'`,
      `the HTTP API of ${first?.region.name ?? ""}'s endpoint; /docs shows all of it`,
    ],
    [`psql ${first?.entranceUrl ?? ""}`, "its entrance: the nearest master that is well"],
    [
      `COREGENT_TOKEN=$(cat ${token}) npx coregent outage start region argentina --for 30s${config}`,
      "an outage, which ends by itself",
    ],
    [
      `npx coregent demo skew new-zealand=1h${data}`,
      "a clock that is an hour ahead: status warns, others write instead; =0 sets it right",
    ],
    [`npx coregent status --watch${config}`, "links, lag and what is not well"],
    [`npx coregent verify${config}`, "prove again that all regions hold the same"],
    [
      `kill -9 ${first?.agent.pid ?? ""}`,
      `an agent dies (${first?.region.name ?? ""}) and comes back; nothing is lost`,
    ],
    [`curl ${second?.agent.api ?? ""}/metrics`, "what Prometheus sees of an agent"],
  ] as const;
  const width = Math.max(...tips.map(([command]) => command.length));
  for (const [command, why] of tips) {
    narrator.say(`   ${command.padEnd(width)}  ${color.dim(why)}`);
  }
  narrator.say();
  narrator.say(`${color.bold("Ctrl-C")} stops it and keeps the data; ${purge(data)} removes them.`);
};

const purge = (data: string): string => `\`npx coregent demo --purge${data}\``;

const dataOption = (configFile: string, cwd: string): string => {
  const folder = shown(dirname(configFile), cwd);
  return folder === defaultDataFolder ? "" : ` --data ${quoted(folder)}`;
};

/** As short as it is unambiguous. */
const shown = (path: string, cwd: string): string => {
  const near = relative(cwd, path);
  return near === "" ? "." : near.startsWith("..") ? path : near;
};

/** Every command looks for coregent.yaml here and in .coregent (see config.ts). */
const foundByItself = (configFile: string, cwd: string): boolean => {
  const folder = relative(cwd, dirname(configFile));
  return basename(configFile) === "coregent.yaml" && (folder === "" || folder === defaultDataFolder);
};

const quoted = (path: string): string =>
  /^[\w./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`;
