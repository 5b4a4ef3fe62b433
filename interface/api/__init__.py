"""What programs call: OpenAI's chat completions on the page's address, through the same queue, guard and gate."""
