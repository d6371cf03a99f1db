#!/usr/bin/env node
import process from "node:process";

process.exitCode = 2;
