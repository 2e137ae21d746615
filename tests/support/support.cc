#include "tests/support/tolerance.h"
