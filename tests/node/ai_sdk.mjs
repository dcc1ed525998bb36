// One call of the AI SDK with its own retries. Reads one JSON argument, prints one JSON line: the text, or every error.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, RetryError, streamText } from "ai";

const { baseURL, apiKey, model, prompt, stream } = JSON.parse(process.argv[2]);
const provider = createOpenAICompatible({ name: "gateway", baseURL, apiKey });
const asked = { model: provider(model), prompt };

const told = (error) => ({ status: error.statusCode ?? 0, message: error.message });

try {
  if (stream) {
    const { textStream, reasoningText } = streamText(asked);
    let text = "";
    for await (const piece of textStream) text += piece;
    console.log(JSON.stringify({ text, reasoning: (await reasoningText) ?? "" }));
  } else {
    const { text, reasoningText } = await generateText(asked);
    console.log(JSON.stringify({ text, reasoning: reasoningText ?? "" }));
  }
} catch (error) {
  const errors = RetryError.isInstance(error) ? error.errors : [error];
  console.log(JSON.stringify({ errors: errors.map(told) }));
}
