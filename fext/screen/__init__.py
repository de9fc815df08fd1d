"""The only room that prints and asks: console, prompts, menu, subcommands."""
