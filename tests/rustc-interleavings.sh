#!/bin/sh
# Compiles this crate, and not what it depends on, with locks that loom can see, and with the switches that turn rules
# off. Only its unit tests have loom: the library below larder-store-tests, which is built beside them, is the usual one.
case " $* " in
*" --crate-type lib "*) exec "$@" ;;
*) exec "$@" --cfg larder_interleavings --cfg larder_ablation ;;
esac
