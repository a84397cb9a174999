"""The switch by which parts learn that their activations are moved to the memory of the CPU."""

CPUOffloadEnabled = False
