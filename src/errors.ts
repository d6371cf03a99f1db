/** What a process of ours ends with. 1: it failed; 2: it was called wrongly. */
export const exitCodes = { ok: 0, error: 1, usage: 2, degraded: 3, diverged: 4 } as const;
export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes];

/**
 * The codes of the errors that an operator sees. The comment of each is its manual: what happened, then the
 * remedy. docs/errors.md is made of these comments (`npx vitest run --project main test/cli/errors.test.ts -u` writes it).
 */
export const errorCodes = {
  /**
   * No configuration file was found in the places where one is looked for: `--config FILE`, else `coregent.yaml`
   * in the working directory, `COREGENT_CONFIG`, and the demo's data folder (`COREGENT_DATA`, else `.coregent`).
   *
   * Remedy: name the file with `--config FILE`, or run the command in the folder that holds `coregent.yaml`. For a
   * cluster to try things on, run `coregent demo`, which writes one.
   */
  "CG-CONFIG-NOT-FOUND": exitCodes.error,
  /**
   * A configuration file is there but cannot be read: a permission, or the path names a folder.
   *
   * Remedy: let the user who runs the command read the file. It may hold passwords, so do not open it to all.
   */
  "CG-CONFIG-UNREADABLE": exitCodes.error,
  /**
   * The configuration has mistakes. All of them are listed at once, each as `file:line:column: what is wrong`. A
   * `${NAME}` whose environment variable is not set is such a mistake; to write a plain `${`, write `$${`.
   *
   * Remedy: correct the file at the places named. Nothing was changed anywhere.
   */
  "CG-CONFIG-INVALID": exitCodes.error,
  /**
   * `coregent.yaml` is in the working directory, and `COREGENT_CONFIG` names another file. A guess could change the
   * wrong cluster.
   *
   * Remedy: say which file is meant with `--config FILE`, or unset `COREGENT_CONFIG`.
   */
  "CG-CONFIG-AMBIGUOUS": exitCodes.error,
  /**
   * A command names a region that the configuration does not have.
   *
   * Remedy: use one of the names under `regions:`; they are case-sensitive. `coregent config` lists them.
   */
  "CG-REGION-UNKNOWN": exitCodes.error,
  /**
   * The command was called wrongly: an unknown command or option, or an argument that is missing.
   *
   * Remedy: `coregent --help` lists the commands, `coregent COMMAND --help` the options of one.
   */
  "CG-USAGE": exitCodes.usage,
  /**
   * A region's PostgreSQL, or an agent, cannot be reached over the network: the host name does not resolve, nothing
   * listens at the port, or the connection timed out.
   *
   * Remedy: see that the server runs and that this machine may reach it (`psql` with the URL of the configuration
   * tells). Other regions go on meanwhile; an agent tries again by itself.
   */
  "CG-UNREACHABLE": exitCodes.error,
  /**
   * PostgreSQL refused the connection: a wrong user or password, a database that does not exist, or no line for this
   * client in pg_hba.conf.
   *
   * Remedy: correct the region's `postgres` URL, or the variable that it takes the password from.
   */
  "CG-LOGIN-REFUSED": exitCodes.error,
  /**
   * A region's PostgreSQL is on another machine and does not support TLS. Connections beyond this machine are encrypted, and
   * the server's certificate is verified, unless the URL says otherwise.
   *
   * Remedy: switch TLS on in the server (`ssl = on`); `sslrootcert=FILE` in the URL names a certificate authority of your
   * own. On a network that you trust, add `sslmode=disable`.
   */
  "CG-NO-TLS": exitCodes.error,
  /**
   * `coregent join` found something in the way, in the region that joins or in one of its peers. Nothing was changed.
   *
   * Remedy: each thing is listed with what to do about it. Settle them and run the command again.
   */
  "CG-JOIN-REFUSED": exitCodes.error,
  /**
   * `coregent uninstall` would break something in a region: its agent works, or a default, a view or a function of
   * yours stands on schema `coregent` or on the `cg_` columns. Nothing was changed.
   *
   * Remedy: stop the agents; drop what is named, or set another default (`ALTER TABLE ... ALTER COLUMN ... SET DEFAULT`).
   * Then run the command again.
   */
  "CG-UNINSTALL-REFUSED": exitCodes.error,
  /**
   * The command was interrupted (Ctrl-C, SIGTERM) before it was done.
   *
   * Remedy: run it again; every command can be interrupted and repeated without harm.
   */
  "CG-INTERRUPTED": exitCodes.error,
  /**
   * A demo is running in this data folder already. Two would fight for its servers.
   *
   * Remedy: stop the other with Ctrl-C, or give this one a folder of its own with `--data DIR`.
   */
  "CG-DEMO-RUNNING": exitCodes.error,
  /**
   * The folder named for the demo cannot be used: it is not readable, or it holds other things than a demo, which the
   * demo would overwrite and `--purge` remove; or `demo skew` finds no demo in it.
   *
   * Remedy: name an empty or a new folder with `--data DIR`.
   */
  "CG-DEMO-FOLDER": exitCodes.error,
  /**
   * A port is in use by another program, or cannot be listened on: one that the demo's `--port-base` leads to, or that of
   * an agent's endpoints.
   *
   * Remedy: give the demo another `--port-base`, or leave it out; then ports that are free are chosen. An agent listens
   * at its region's `api` address, or where `--listen HOST:PORT` says.
   */
  "CG-PORT-TAKEN": exitCodes.error,
  /**
   * `coregent route explain` asked a region's agent, which cannot be reached, does not know the table, or asks for a token.
   *
   * Remedy: the message says which. Ask another region's agent with `--region NAME`; give a token in `COREGENT_TOKEN`.
   */
  "CG-ROUTE-UNKNOWN": exitCodes.error,
  /**
   * `coregent drain` would leave no region that takes writes, or Coregent's schema in the region is of an earlier release
   * that cannot say that it is drained. Nothing was changed.
   *
   * Remedy: the message says which. Resume another region (`coregent resume NAME`) or see that one can be reached; bring the
   * schema up to date with `coregent init`.
   */
  "CG-DRAIN-REFUSED": exitCodes.error,
  /**
   * An agent was told to listen beyond loopback (`--listen`), while its endpoint asks nobody for a token: anyone who
   * reaches the address could write.
   *
   * Remedy: make tokens with `coregent token`, and list them under `endpoint: tokens:`; or leave `--listen` out.
   */
  "CG-ENDPOINT-OPEN": exitCodes.error,
  /**
   * The certificate or the key under `endpoint: tls:` cannot be read.
   *
   * Remedy: correct the paths, or let the agent's user read the files.
   */
  "CG-TLS-UNREADABLE": exitCodes.error,
  /**
   * An error that the program did not expect: a defect, or a failure that it cannot explain yet.
   *
   * Remedy: run the command again with `--debug`, which prints where it happened, and report it.
   */
  "CG-INTERNAL": exitCodes.error,
} as const satisfies Record<string, ExitCode>;

export type ErrorCode = keyof typeof errorCodes;

/** A place in a file where something is wrong; lines and columns count from 1. */
export interface FileProblem {
  readonly file: string;
  readonly line: number;
  readonly column: number;
  readonly message: string;
}

export interface OperatorErrorDetails {
  /** What to do about it, as one or more sentences. */
  readonly remedy: string;
  readonly problems?: readonly FileProblem[];
  readonly cause?: unknown;
}

/** An error to be shown to the operator as it is: message, remedy and code, without a stack. */
export class OperatorError extends Error {
  override readonly name = "OperatorError";
  readonly code: ErrorCode;
  readonly remedy: string;
  readonly problems: readonly FileProblem[];

  constructor(code: ErrorCode, message: string, details: OperatorErrorDetails) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.remedy = details.remedy;
    this.problems = details.problems ?? [];
  }

  get exitCode(): ExitCode {
    return errorCodes[this.code];
  }
}
