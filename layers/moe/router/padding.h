// What routers do for padding (Context::is_padding): it takes no expert and moves nothing.
#pragma once

#include "layers/context.h"

namespace conclave {

// Sets the rows of padding in `rows`, fp32 [T, ...], to zero. A token whose probabilities and log-sum-exp are
// zero adds nothing to the balance terms, and the softmax's backward gives it no gradient.
void clear_padding(Context& ctx, TensorView rows);

// `chosen`, int32 [T, K], with kNoExpert for padding: a copy in ctx.arena, or `chosen` itself where there is
// no padding. Backward still needs valid ids.
TensorView without_padding(Context& ctx, TensorView chosen);

}  // namespace conclave
