// Reporter of Node's test runner: what failed, and the sum as the last line.

import {inspect} from 'node:util';

export default async function* report(events) {
  let passed = 0;
  let failed = 0;
  for await (const {type, data} of events) {
    if (type === 'test:pass') {
      passed += 1;
    } else if (type === 'test:fail') {
      failed += 1;
      yield `FAILED  ${data.name}\n${inspect(data.details.error.cause ?? data.details.error)}\n`;
    } else if (type === 'test:stderr') {
      yield data.message;
    }
  }
  yield `${passed} passed, ${failed} failed\n`;
}
