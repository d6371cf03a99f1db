import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    // A log is read for what failed.
    reporters: process.env["CI"] === "true" ? ["minimal"] : ["default"],
    projects: [
      {
        test: {
          name: "main",
          include: ["test/**/*.test.ts"],
          exclude: ["test/bench/**", "test/containers/**"],
          globalSetup: ["test/support/global-setup.ts"],
          setupFiles: ["test/support/property-seed.ts"],
          testTimeout: 60_000,
          hookTimeout: 120_000,
          maxWorkers: 2,
        },
      },
      // Needs a container engine.
      {
        test: {
          name: "containers",
          include: ["test/containers/*.test.ts"],
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
});
