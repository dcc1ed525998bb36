// Plays the steps of one talk with a client and prints what each came to; tests/clients_env/talking.py says more.
import { z } from "zod";

export const Person = z.object({ name: z.string(), age: z.number() });

export async function play(Client) {
  const given = JSON.parse(process.argv[2]);
  const talk = new Client(given);
  const results = [];
  for (const [deed, ...values] of given.steps) {
    try {
      results.push((await talk[deed](...values)) ?? null);
    } catch (error) {
      results.push({ error: error.name, message: error.message });
    }
  }
  console.log(JSON.stringify({ said: results }));
}
