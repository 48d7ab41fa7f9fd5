// Runs what Grafana itself runs in a browser. Each line of standard input is a request, each line of the output its answer.
//   {"do": "transform", "frames": [...], "transformations": [...]}  the tables' columns: [[{"title", "type", "values"}]]
//   {"do": "parse", "language": "logql" | "traceql", "queries": [...]}  the texts that are no such query
//   {"do": "parameters", "values": {"var-user": [...]}}  the query string
// The library wants a window while it loads; react-use, which it loads, wants all of a browser if there is one.
require('react-use');
globalThis.window ??= { addEventListener() {}, location: { search: '' } };

const {
  standardTransformers,
  standardTransformersRegistry,
  toDataFrame,
  transformDataFrame,
  urlUtil,
} = require('@grafana/data');

const grammars = {
  logql: () => require('@grafana/lezer-logql').parser,
  traceql: () => require('@grafana/lezer-traceql').parser,
};

const known = new Map(Object.values(standardTransformers).map((each) => [each.id, each])); // some have two names
standardTransformersRegistry.setInit(() =>
  Array.from(known.values(), (transformation) => ({ ...transformation, transformation }))
);

const answers = {
  async parse({ language, queries }) {
    const parser = grammars[language]();
    return queries.filter((query) => {
      let broken = false;
      parser.parse(query).iterate({ enter: (node) => void (broken ||= node.type.isError) });
      return broken;
    });
  },

  parameters: async ({ values }) => urlUtil.toUrlParams(values),

  async transform({ frames, transformations }) {
    const unknown = transformations.filter(({ id }) => !known.has(id));
    if (unknown.length) {
      throw new Error(`not in @grafana/data: ${unknown.map(({ id }) => id)}`);
    }
    // What a line lacks is undefined in the columns that Grafana makes of its labels; JSON has no such thing.
    for (const field of frames.flatMap(({ fields }) => fields)) {
      field.values = field.values.map((value) => value ?? undefined);
    }
    const tables = await new Promise((resolve, reject) =>
      transformDataFrame(transformations, frames.map(toDataFrame)).subscribe({ next: resolve, error: reject })
    );
    return tables.map(({ fields }) =>
      fields.map(({ name, type, config, values }) => ({
        title: config.displayName ?? name,
        type,
        values: Array.from(values, (value) => value ?? null),
      }))
    );
  },
};

async function main() {
  for await (const line of require('node:readline').createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    const answer = await answers[request.do](request).catch((error) => ({ failed: String(error?.stack ?? error) }));
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
}

main();
