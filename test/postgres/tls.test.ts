import { describe, expect, test } from "vitest";
import { withTls } from "../../src/postgres/tls.ts";

describe("TLS to PostgreSQL", () => {
  test.each([
    "postgres://app:pw@127.0.0.1:5432/db",
    "postgres://app:pw@127.8.9.10/db",
    "postgres://localhost/db",
    "postgres://[::1]:5432/db",
    "postgres:///db?host=/run/postgresql",
    "postgres://%2Frun%2Fpostgresql/db",
  ])("is left out on this machine: %s", (url) => {
    expect(withTls(url)).toBe(url);
  });

  test.each([
    "postgres://app:pw@db.example/db?sslmode=disable",
    "postgres://app:pw@10.0.0.7/db?application_name=x&sslmode=no-verify",
  ])("is what the URL says: %s", (url) => {
    expect(withTls(url)).toBe(url);
  });

  test("is verified on any other, and nothing else of the URL changes", () => {
    expect(withTls("postgres://app:p%40w@db.example:5432/db")).toBe(
      "postgres://app:p%40w@db.example:5432/db?sslmode=verify-full",
    );
    expect(withTls("postgres://app@10.0.0.7/db?sslrootcert=/ca.pem")).toBe(
      "postgres://app@10.0.0.7/db?sslrootcert=/ca.pem&sslmode=verify-full",
    );
    expect(withTls("postgres://app@127.0.0.1.example.com/db")).toContain("sslmode=verify-full");
  });
});
