#!/usr/bin/env bash
# Compiles the cases that examples/benchmarks/results/compiled holds: those that answer a question each.
# Run it from the root of the repository; it continues where it stopped. It takes a few hours on two cores.
set -euo pipefail

compile() {
    python -m examples.benchmarks.compiled --out examples/benchmarks/results/compiled/compiled.jsonl "$@"
}

# How does the cost grow with the parameters? From 1 G to 405 G, and with experts, on 256 chips.
llamas="llama_1g llama_7g llama_70g llama_405g mixtral_47g"
compile --cards h100 --chips 256 --trees $llamas --optimizers adamw --layouts fsdp both
compile --cards v5e v5p --chips 256 --trees $llamas --optimizers adamw --layouts fsdp both

# How does it grow with the chips? The same models on 8 to 4096.
compile --cards h100 v5p --chips 8 1024 4096 --trees llama_1g llama_7g llama_70g llama_405g \
    --optimizers adamw --layouts fsdp

# What do networks with many separate kernels cost on one chip?
compile --cards h100 v5e --chips 1 --trees resnet50 vit_b16 vgg11 --optimizers sgdm adamw

# What does each way to split the kernels cost, where heads and experts are axes of a kernel?
compile --cards h100 v5e --chips 8 --trees llama_1g --optimizers sgdm adamw
compile --cards h100 v5e --chips 8 --trees vit_b16 --optimizers adamw
compile --cards h100 v5e --chips 256 --trees llama_7g --optimizers sgdm adamw

# Does GC change what Muon does, whose own products cross the chips?
compile --cards h100 v5e --chips 8 --trees llama_1g --optimizers muon --layouts fsdp both
compile --cards h100 v5e --chips 256 --trees llama_7g --optimizers muon --layouts fsdp both

# Are the other TPUs different?
compile --cards v5p v6e --chips 1 --trees resnet50 vit_b16 vgg11 --optimizers sgdm
compile --cards v6e --chips 256 --trees $llamas --optimizers adamw --layouts fsdp both

# Update steps of ResNet-50 with every split, as a network without stacked layers.
compile --cards h100 v5e --chips 8 --trees resnet50 --optimizers sgdm
