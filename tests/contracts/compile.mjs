// Compiles every contract of this directory: node compile.mjs <solc module dir> <output dir>.
// Writes <Name>.json with the ABI, the creation code and the storage layout of each contract that can be deployed.
import { createRequire } from "node:module";
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const [modules, out] = process.argv.slice(2);
if (!modules || !out) {
  console.error("usage: node compile.mjs <node_modules dir> <output dir>");
  process.exit(64);
}
const here = dirname(fileURLToPath(import.meta.url));
const solc = createRequire(join(resolve(modules), "x.js"))("solc");
const names = readdirSync(here).filter((name) => name.endsWith(".sol")).sort();
const input = {
  language: "Solidity",
  sources: Object.fromEntries(names.map((name) => [name, { content: readFileSync(join(here, name), "utf8") }])),
  settings: {
    optimizer: { enabled: true, runs: 200 },
    evmVersion: "cancun",
    outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "storageLayout"] } },
  },
};
const output = JSON.parse(solc.compile(JSON.stringify(input)));
const messages = output.errors ?? [];
for (const message of messages) {
  console.error(message.formattedMessage);
}
if (messages.length > 0) {
  console.error("the contracts must compile without a warning");
  process.exit(65);
}
mkdirSync(out, { recursive: true });
for (const contracts of Object.values(output.contracts)) {
  for (const [name, contract] of Object.entries(contracts)) {
    const bytecode = contract.evm.bytecode.object;
    if (bytecode === "") {
      continue;
    }
    const slots = Object.fromEntries(contract.storageLayout.storage.map((entry) => [entry.label, entry.slot]));
    const artefact = { compiler: solc.version(), abi: contract.abi, bytecode: `0x${bytecode}`, slots };
    writeFileSync(join(out, `${name}.json`), `${JSON.stringify(artefact, null, 1)}\n`);
    console.log(`compiled ${name}: ${bytecode.length / 2} bytes of creation code`);
  }
}
