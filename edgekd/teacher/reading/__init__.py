"""Files to what they hold, in a child process of few rights: no code of their authors is run."""
