import { chmod, mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";
import type { PostgresVersion } from "../../src/embedded/binaries.ts";
import { startServer, type Server } from "../../src/embedded/server.ts";

declare module "vitest" {
  export interface ProvidedContext {
    /** Answers `GET /<major version>` with the URL of the run's server of that version, which it starts if need be. */
    readonly postgresServers: string;
  }
}

const settings = { max_connections: "200", log_statement: "none", autovacuum_naptime: "10s" };

/** One PostgreSQL of each version for the whole run, started when a test first asks for it. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const folder = await mkdtemp(join(tmpdir(), "coregent-test-"));
  // The servers' user must be able to enter it.
  await chmod(folder, 0o755);
  const servers = new Map<PostgresVersion, Promise<Server>>();
  const serverOf = (version: PostgresVersion): Promise<Server> => {
    let server = servers.get(version);
    if (!server) {
      const dataDir = join(folder, `pg${version}`);
      server = startServer({ dataDir, version, fsync: false, settings, removeWithUs: true });
      servers.set(version, server);
    }
    return server;
  };

  const control = createServer((request, response) => {
    const version = Number(request.url?.slice(1)) as PostgresVersion;
    serverOf(version)
      .then((server) => response.end(server.url()))
      .catch((error: unknown) => {
        response.statusCode = 500;
        response.end(String(error));
      });
  });
  await new Promise<void>((resolve) => control.listen(0, "127.0.0.1", resolve));
  const address = control.address();
  if (address === null || typeof address === "string") throw new Error("no port for the control server");
  project.provide("postgresServers", `http://127.0.0.1:${address.port}`);

  return async () => {
    control.closeAllConnections();
    control.close();
    for (const server of await Promise.allSettled(servers.values())) {
      if (server.status === "fulfilled") await server.value.stop("immediate");
    }
    await rm(folder, { recursive: true, force: true });
  };
}
