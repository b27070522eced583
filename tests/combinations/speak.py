"""`python -m tests.combinations.speak FILE ADAPTER SYSTEM QUESTION`: a greedy answer by llama-cpp-python, as JSON."""

import json
import sys

import llama_cpp

file, adapter, system, question = sys.argv[1:]
model = llama_cpp.Llama(file, lora_path=adapter, n_ctx=512, n_threads=1, verbose=False)
messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
answer = model.create_chat_completion(messages, max_tokens=48, temperature=0)
print(json.dumps(answer["choices"][0]["message"]["content"]))
