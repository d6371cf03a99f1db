#!/usr/bin/env node
import "./v8-heap.ts";
import process from "node:process";
import { createInterface } from "node:readline/promises";
import pc from "picocolors";
import { registerAgent } from "./cli/agent.ts";
import { registerCheck } from "./cli/check.ts";
import { registerConfig } from "./cli/config.ts";
import type { CliWorld, RegisterCommand } from "./cli/context.ts";
import { registerDemo } from "./cli/demo.ts";
import { registerDrain, registerResume } from "./cli/drain.ts";
import { errorText } from "./cli/error-report.ts";
import { explainError } from "./cli/explain-error.ts";
import { registerOutage } from "./cli/outage.ts";
import { registerRoute } from "./cli/route.ts";
import { registerToken } from "./cli/token.ts";
import { registerHaproxyConfig } from "./cli/haproxy-config.ts";
import { registerInit } from "./cli/init.ts";
import { registerJoin } from "./cli/join.ts";
import { OutputClosed } from "./cli/output.ts";
import { runCli } from "./cli/program.ts";
import type { ClusterServices } from "./cli/services.ts";
import { registerStatus } from "./cli/status.ts";
import { registerRepair } from "./cli/repair.ts";
import { registerUninstall } from "./cli/uninstall.ts";
import { registerVerify } from "./cli/verify.ts";
import { systemClock } from "./clock.ts";
import { OperatorError } from "./errors.ts";
import { checkCluster } from "./postgres/check.ts";
import { initCluster } from "./postgres/init.ts";
import { uninstallCluster } from "./postgres/uninstall.ts";

/** The composition root: the only place that makes a clock, reads the environment or listens to signals. */

const commands: readonly RegisterCommand[] = [
  registerDemo,
  registerConfig,
  registerCheck,
  registerInit,
  registerUninstall,
  registerToken,
  registerJoin,
  registerHaproxyConfig,
  registerAgent,
  registerStatus,
  registerRoute,
  registerDrain,
  registerResume,
  registerVerify,
  registerRepair,
  registerOutage,
];

const interrupts = new AbortController();
let listening = false;

const interrupted = (): AbortSignal => {
  if (!listening) {
    listening = true;
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      // Once: whoever cannot wait for the command to end in order sends the signal again.
      process.once(signal, () => {
        interrupts.abort(
          new OperatorError("CG-INTERRUPTED", `interrupted by ${signal}`, {
            remedy: "Run the command again; what it had begun does no harm.",
          }),
        );
      });
    }
  }
  return interrupts.signal;
};

/** `coregent status --watch | head` closes our output early: no failure, but nothing is left to be said. */
const endQuietlyOnClosedPipe = (): void => {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code !== "EPIPE") {
        throw error;
      }
      interrupts.abort(new OutputClosed("the reader of our output has gone", { cause: error }));
    });
  }
};

const confirm = async (question: string): Promise<boolean> => {
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  // Ctrl-C and Ctrl-D close the prompt without an answer, and its promise would then wait for ever.
  const closed = new Promise<string>((resolve) => {
    lines.once("close", () => {
      resolve("");
    });
  });
  try {
    const answer = await Promise.race([lines.question(question), closed]);
    return /^y(es)?$/i.test(answer.trim());
  } finally {
    lines.close();
  }
};

const services: ClusterServices = {
  initCluster,
  uninstallCluster,
  checkCluster,
};

const world: CliWorld = {
  stdout: process.stdout,
  stderr: process.stderr,
  env: process.env,
  cwd: process.cwd(),
  clock: systemClock(),
  random: Math.random,
  interrupted,
  confirm: process.stdin.isTTY && process.stderr.isTTY ? confirm : null,
  services,
};

/** Node would print all properties of the error, and some hold a URL with its password. We print stacks only. */
const reportCrashes = (): void => {
  process.on("uncaughtException", (error) => {
    process.stderr.write(`${errorText(explainError(error), pc.createColors(false), true)}\n`);
    process.exit(1);
  });
};

reportCrashes();
endQuietlyOnClosedPipe();
process.exitCode = await runCli(process.argv.slice(2), world, commands);
