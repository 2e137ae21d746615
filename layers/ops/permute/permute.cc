#include "layers/ops/permute/permute.h"

#include "layers/cuda/arguments.h"

namespace conclave {
namespace {

// tokens [T, D] and rows [R, D] as wide as each other.
void check_widths(const Shape& tokens, const Shape& rows) {
  CONCLAVE_CHECK(tokens.rank() == 2 && rows.rank() == 2 && tokens[1] == rows[1],
                 "tokens [T, D] and their rows [R, D] have shapes {} and {}", tokens.text(), rows.text());
}

void check_choices(const ConstTensorView& row_of_choice, std::int64_t tokens, std::int64_t top_k) {
  CONCLAVE_CHECK_EQ(row_of_choice.elements(), tokens * top_k, "choices of tokens x top_k in row_of_choice");
}

void check_weights(const Shape& weights, const Shape& tokens) {
  CONCLAVE_CHECK(weights.rank() == 2 && weights[0] == tokens[0],
                 "combine weights [T, K] have shape {} for tokens {}", weights.text(), tokens.text());
}

}  // namespace

void gather_rows(Context& ctx, const GatherRowsArgs& args) {
  check_widths(args.x.shape(), args.rows.shape());
  CONCLAVE_CHECK(args.top_k > 0, "gather_rows with top_k {}", args.top_k);
  CONCLAVE_CHECK_EQ(args.choice_of_row.elements(), args.rows.extent(0),
                    "entries of choice_of_row, one a row");
  if (ctx.on_gpu()) {
    const Arena::Mark scratch(*ctx.arena);
    cuda::gather_rows(cuda::stream_of(ctx), args.x.data<float>(),
                      cuda::on_gpu<std::int32_t>(ctx, args.choice_of_row), cuda::elements_of(args.rows),
                      args.rows.extent(0), args.top_k, args.rows.extent(1));
    return;
  }
  cpu::gather_rows(args);
}

void gather_rows_backward(Context& ctx, const GatherRowsBackwardArgs& args) {
  check_widths(args.dx.shape(), args.drows.shape());
  check_choices(args.row_of_choice, args.dx.extent(0), args.top_k);
  if (ctx.on_gpu()) {
    const Arena::Mark scratch(*ctx.arena);
    cuda::gather_rows_backward(cuda::stream_of(ctx), cuda::elements_of(args.drows),
                               cuda::on_gpu<std::int32_t>(ctx, args.row_of_choice), args.dx.data<float>(),
                               args.dx.extent(0), args.top_k, args.dx.extent(1));
    return;
  }
  cpu::gather_rows_backward(args);
}

void combine_rows(Context& ctx, const CombineRowsArgs& args) {
  check_widths(args.y.shape(), args.rows.shape());
  check_weights(args.weights.shape(), args.y.shape());
  check_choices(args.row_of_choice, args.y.extent(0), args.weights.extent(1));
  if (ctx.on_gpu()) {
    const Arena::Mark scratch(*ctx.arena);
    cuda::combine_rows(cuda::stream_of(ctx), cuda::elements_of(args.rows), args.weights.data<float>(),
                       cuda::on_gpu<std::int32_t>(ctx, args.row_of_choice), args.y.data<float>(),
                       args.accumulate, args.y.extent(0), args.weights.extent(1), args.y.extent(1));
    return;
  }
  cpu::combine_rows(args);
}

void combine_rows_backward(Context& ctx, const CombineRowsBackwardArgs& args) {
  check_widths(args.dy.shape(), args.rows.shape());
  check_widths(args.dy.shape(), args.drows.shape());
  CONCLAVE_CHECK_EQ(args.drows.extent(0), args.rows.extent(0), "rows of the gradient of combine_rows");
  check_weights(args.weights.shape(), args.dy.shape());
  CONCLAVE_CHECK_EQ(args.dweights.shape().text(), args.weights.shape().text(), "gradient of combine weights");
  check_choices(args.row_of_choice, args.dy.extent(0), args.weights.extent(1));
  if (ctx.on_gpu()) {
    const Arena::Mark scratch(*ctx.arena);
    cuda::combine_rows_backward(
        cuda::stream_of(ctx), args.dy.data<float>(), cuda::elements_of(args.rows), args.weights.data<float>(),
        cuda::on_gpu<std::int32_t>(ctx, args.row_of_choice), cuda::elements_of(args.drows),
        args.dweights.data<float>(), args.dy.extent(0), args.weights.extent(1), args.dy.extent(1));
    return;
  }
  cpu::combine_rows_backward(args);
}

void clear_rows_without_choice(Context& ctx, const ConstTensorView& choice_of_row, TensorView rows) {
  CONCLAVE_CHECK_EQ(choice_of_row.elements(), rows.extent(0), "entries of choice_of_row, one a row");
  if (ctx.on_gpu()) {
    const Arena::Mark scratch(*ctx.arena);
    cuda::clear_rows_without_choice(cuda::stream_of(ctx), cuda::on_gpu<std::int32_t>(ctx, choice_of_row),
                                    cuda::elements_of(rows), rows.extent(0), rows.extent(1));
    return;
  }
  cpu::clear_rows_without_choice(choice_of_row, rows);
}

}  // namespace conclave
