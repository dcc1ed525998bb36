// A chat by the OpenAI SDK for Node. The steps are those of tests/clients_env/talking.py.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { Person, play } from "./talking.mjs";

class OpenAITalk {
  messages = [];

  constructor({ baseURL, apiKey, model }) {
    this.client = new OpenAI({ baseURL, apiKey });
    this.model = model;
  }

  async say(text) {
    const asked = this.#asked(text);
    const reply = await this.client.chat.completions.create({ model: this.model, messages: asked });
    return this.#kept(asked, reply.choices[0].message.content);
  }

  stream(text) {
    return this.#streamed(text);
  }

  stop(text, after) {
    return this.#streamed(text, after);
  }

  async parse(text) {
    const response_format = zodResponseFormat(Person, "person");
    const reply = await this.client.chat.completions.parse({
      model: this.model,
      messages: this.#asked(text),
      response_format,
    });
    return reply.choices[0].message.parsed;
  }

  back(turns) {
    this.messages.length = 2 * turns;
  }

  async #streamed(text, until) {
    const asked = this.#asked(text);
    let seen = "";
    for await (const chunk of await this.client.chat.completions.create({
      model: this.model,
      messages: asked,
      stream: true,
    })) {
      seen += chunk.choices[0]?.delta?.content ?? "";
      if (seen === until) break;
    }
    return this.#kept(asked, seen);
  }

  #asked(text) {
    return [...this.messages, { role: "user", content: text }];
  }

  #kept(asked, answer) {
    this.messages = [...asked, { role: "assistant", content: answer }];
    return answer;
  }
}

await play(OpenAITalk);
