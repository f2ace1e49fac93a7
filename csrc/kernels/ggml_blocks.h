// The block layouts of ggml's types (ggml/src/ggml-common.h).
#pragma once

#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"
