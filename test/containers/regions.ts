import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import {
  type ExecResult,
  GenericContainer,
  getContainerRuntimeClient,
  Network,
  type StartedNetwork,
  type StartedTestContainer,
  Wait,
} from "testcontainers";
import { weightbookSchema } from "../../src/demo/schema.ts";

/** The regions of compose/coregent.yaml. */
export const names = ["moldova", "argentina", "new-zealand"] as const;
export type Name = (typeof names)[number];

const pathOf = (file: string): string => fileURLToPath(new URL(`../../${file}`, import.meta.url));
const configuration = { source: pathOf("compose/coregent.yaml"), target: "/etc/coregent/coregent.yaml" };
const database = "weightbook";

const token = "token-of-the-test";
const environment = {
  COREGENT_DB_PASSWORD: "password-of-the-test",
  COREGENT_TOKEN: token,
  COREGENT_TOKEN_SHA256: createHash("sha256").update(token).digest("hex"),
};

const outputOf = ({ exitCode, stdout, output }: ExecResult, what: string): string => {
  if (exitCode !== 0) throw new Error(`${what} ended with ${exitCode}:\n${output}`);
  return stdout;
};

/** The engine's own handles, for what testcontainers has no call. */
const engine = async () => {
  const { container, network } = await getContainerRuntimeClient();
  return {
    container: (of: StartedTestContainer) => container.getById(of.getId()),
    join: (to: StartedNetwork, of: StartedTestContainer, alias: string): Promise<void> =>
      container.connectToNetwork(container.getById(of.getId()), network.getById(to.getId()), [alias]),
    leave: (from: StartedNetwork, of: StartedTestContainer): Promise<unknown> =>
      network.getById(from.getId()).disconnect({ Container: of.getId(), Force: true }),
  };
};

interface Parts {
  readonly postgres: StartedTestContainer;
  readonly agent: StartedTestContainer;
  /** Joins all regions. */
  readonly outside: StartedNetwork;
}

/** A region: its PostgreSQL and its agent. */
class ContainerRegion {
  readonly #name: Name;
  readonly #parts: Parts;

  constructor(name: Name, parts: Parts) {
    this.#name = name;
    this.#parts = parts;
  }

  /** As an application beside the server does. @returns what psql prints, a line for each row */
  sql(text: string): Promise<string> {
    return sqlIn(this.#parts.postgres, text);
  }

  /** @returns what it prints @throws where it ends with anything but 0 */
  async coregent(...words: readonly string[]): Promise<string> {
    const result = await this.#parts.agent.exec(["node", "/app/dist/src/main.js", ...words]);
    return outputOf(result, `coregent ${words.join(" ")} in ${this.#name}`);
  }

  /** Asks the endpoint of the region's agent, from beside it: while the region is cut off, nobody else reaches it. */
  async ask(
    [method, path]: readonly [method: string, path: string],
    body?: unknown,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<{ status: number; text: string }> {
    const request = {
      method,
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json", ...headers },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    };
    const script = `const answer = await fetch("http://127.0.0.1:7400${path}", ${JSON.stringify(request)});
      console.log(JSON.stringify({ status: answer.status, text: await answer.text() }));`;
    const result = await this.#parts.agent.exec(["node", "--input-type=module", "-e", script]);
    const output = outputOf(result, `${method} ${path} in ${this.#name}`);
    return JSON.parse(output) as { status: number; text: string };
  }

  /** Its agent and its server reach each other, and no other region. */
  async cut(): Promise<void> {
    const { postgres, agent, outside } = this.#parts;
    const { leave } = await engine();
    await Promise.all([leave(outside, postgres), leave(outside, agent)]);
  }

  async heal(): Promise<void> {
    const { postgres, agent, outside } = this.#parts;
    const { join } = await engine();
    await join(outside, postgres, `postgres-${this.#name}`);
    await join(outside, agent, `agent-${this.#name}`);
  }

  /** By SIGKILL. */
  async killServer(): Promise<void> {
    await (await engine()).container(this.#parts.postgres).kill();
  }

  async startServer(): Promise<void> {
    await (await engine()).container(this.#parts.postgres).start();
  }

  /** By SIGTERM, as an orchestrator does. @returns what it ends with */
  async stopAgent(): Promise<number> {
    const agent = (await engine()).container(this.#parts.agent);
    const ended = agent.wait() as Promise<{ StatusCode: number }>;
    await agent.stop({ t: 20 });
    return (await ended).StatusCode;
  }

  async startAgent(): Promise<void> {
    await (await engine()).container(this.#parts.agent).start();
  }
}

const sqlIn = async (postgres: StartedTestContainer, text: string): Promise<string> => {
  const psql = ["psql", "--no-psqlrc", "-qAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database];
  const result = await postgres.exec([...psql, "-c", text]);
  return outputOf(result, text).trimEnd();
};

const startPostgres = (name: Name, network: StartedNetwork): Promise<StartedTestContainer> =>
  new GenericContainer("postgres:18")
    .withNetwork(network)
    .withNetworkAliases(`postgres-${name}`)
    .withEnvironment({ POSTGRES_DB: database, POSTGRES_PASSWORD: environment.COREGENT_DB_PASSWORD })
    .withCommand(["postgres", "-c", "wal_level=logical"])
    .withHealthCheck({
      test: ["CMD", "pg_isready", "-q", "-h", "127.0.0.1", "-U", "postgres", "-d", database],
      interval: 500,
      timeout: 5_000,
      retries: 120,
    })
    .withWaitStrategy(Wait.forHealthCheck())
    .start();

/** A build that fails is known by the lack of its image alone, so there is to be none of an earlier one. Layers stay. */
const untag = async (image: string): Promise<void> => {
  const { container } = await getContainerRuntimeClient();
  await container.dockerode
    .getImage(image)
    .remove({ force: true, noprune: true })
    .catch((error: { readonly statusCode?: number }) => {
      if (error.statusCode !== 404) throw error;
    });
};

/**
 * The three regions of compose/compose.yaml, of the image of compose/Dockerfile, but each with a network of its own and one
 * that joins them all.
 */
export class ContainerRegions implements AsyncDisposable {
  readonly #stack: AsyncDisposableStack;
  readonly #regions: ReadonlyMap<Name, ContainerRegion>;

  private constructor(stack: AsyncDisposableStack, regions: ReadonlyMap<Name, ContainerRegion>) {
    this.#stack = stack;
    this.#regions = regions;
  }

  static async start(): Promise<ContainerRegions> {
    await using stack = new AsyncDisposableStack();
    const image = "coregent:test";
    await untag(image);
    await GenericContainer.fromDockerfile(pathOf(""), "compose/Dockerfile").build(image, {
      deleteOnExit: false,
    });
    const outside = stack.use(await new Network().start());
    const coregent = (...words: readonly string[]): GenericContainer =>
      new GenericContainer(image)
        .withNetwork(outside)
        .withEnvironment(environment)
        .withCopyFilesToContainer([configuration])
        .withCommand([...words]);
    const { join } = await engine();
    const parts = new Map<Name, Omit<Parts, "agent"> & { readonly inside: StartedNetwork }>();
    for (const name of names) {
      const inside = stack.use(await new Network().start());
      const postgres = stack.use(await startPostgres(name, outside));
      await join(inside, postgres, `postgres-${name}`);
      await sqlIn(postgres, weightbookSchema);
      parts.set(name, { postgres, inside, outside });
    }
    stack.use(await coregent("init").withWaitStrategy(Wait.forOneShotStartup()).start());
    const regions = new Map<Name, ContainerRegion>();
    for (const [name, { postgres, inside }] of parts) {
      const agent = stack.use(
        await coregent("agent", "--region", name, "--listen", "0.0.0.0:7400")
          .withNetworkAliases(`agent-${name}`)
          .withExposedPorts(7400)
          .withWaitStrategy(Wait.forHttp("/readyz", 7400))
          .start(),
      );
      await join(inside, agent, `agent-${name}`);
      regions.set(name, new ContainerRegion(name, { postgres, agent, outside }));
    }
    return new ContainerRegions(stack.move(), regions);
  }

  region(name: Name): ContainerRegion {
    return this.#regions.get(name) as ContainerRegion;
  }

  /** All regions hold the same, by `coregent verify`. @throws its report, where they do not within its time */
  async equal(): Promise<void> {
    await this.region("moldova").coregent("verify", "--wait", "60");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}
