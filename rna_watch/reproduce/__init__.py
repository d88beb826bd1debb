"""The paper's experiments, each one command: settings, results kept part by part, tables and figures."""
