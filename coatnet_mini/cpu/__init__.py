"""Speed on a CPU: transforms, network in and network out, with the same outputs and gradients."""
