// What experts are told of their rows, and the rows' ways between the order of the wire and theirs.
#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/moe_kernels.h"

namespace conclave::cuda {
namespace {

constexpr std::int64_t kRowsOfBlock = 32;

__global__ void token_numbers_kernel(const std::int32_t* choice_of_row, std::int64_t first_token,
                                     std::int64_t top_k, std::int64_t* numbers, std::int64_t rows) {
  const std::int64_t r = global_thread();
  if (r < rows) numbers[r] = choice_of_row[r] == kNone ? 0 : first_token + choice_of_row[r] / top_k;
}

__global__ void first_dropout_blocks_kernel(const std::int64_t* tokens, const std::int64_t* offsets,
                                            std::int64_t local_experts, std::int64_t first_expert,
                                            std::int64_t experts, std::int64_t blocks_a_row,
                                            std::int64_t* first_block, std::int64_t rows) {
  const std::int64_t r = global_thread();
  if (r >= rows) return;
  // The expert of the row is the last that begins at or before it and has rows.
  std::int64_t begin = 0;
  std::int64_t end = local_experts;
  while (begin < end) {
    const std::int64_t middle = (begin + end) / 2;
    if (offsets[middle + 1] <= r) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  first_block[r] = (tokens[r] * experts + first_expert + begin) * blocks_a_row;
}

// Block (x, y): rows x kRowsOfBlock and on of run y, in words of the largest size that their places allow.
template <class Word>
__global__ void move_rows_kernel(const Word* from, Word* to, const RowRun* runs, std::int64_t words_a_row) {
  const RowRun run = runs[blockIdx.y];
  const std::int64_t first = blockIdx.x * kRowsOfBlock;
  if (first >= run.rows) return;
  const std::int64_t rows = run.rows - first < kRowsOfBlock ? run.rows - first : kRowsOfBlock;
  const Word* source = from + (run.from + first) * words_a_row;
  Word* target = to + (run.to + first) * words_a_row;
  for (std::int64_t i = threadIdx.x; i < rows * words_a_row; i += blockDim.x) target[i] = source[i];
}

bool fits(const void* from, const void* to, std::int64_t row_bytes, std::size_t word_bytes) {
  return reinterpret_cast<std::uintptr_t>(from) % word_bytes == 0 &&
         reinterpret_cast<std::uintptr_t>(to) % word_bytes == 0 &&
         static_cast<std::size_t>(row_bytes) % word_bytes == 0;
}

}  // namespace

void token_numbers(StreamHandle stream, const std::int32_t* choice_of_row, std::int64_t first_token,
                   std::int64_t K, std::int64_t* numbers, std::int64_t R) {
  if (R == 0) return;
  launch("token_numbers", stream, blocks_for(R), kThreads, 0, token_numbers_kernel, choice_of_row,
         first_token, K, numbers, R);
}

void first_dropout_blocks(StreamHandle stream, const std::int64_t* tokens, const std::int64_t* offsets,
                          std::int64_t n, std::int64_t first_expert, std::int64_t E,
                          std::int64_t blocks_a_row, std::int64_t* first_block, std::int64_t R) {
  if (R == 0) return;
  launch("first_dropout_blocks", stream, blocks_for(R), kThreads, 0, first_dropout_blocks_kernel, tokens,
         offsets, n, first_expert, E, blocks_a_row, first_block, R);
}

void move_rows(StreamHandle stream, const void* from, void* to, const RowRun* runs, std::int64_t runs_count,
               std::int64_t most_rows, std::int64_t row_bytes) {
  if (runs_count * most_rows * row_bytes == 0) return;
  const dim3 grid(static_cast<unsigned>((most_rows + kRowsOfBlock - 1) / kRowsOfBlock),
                  static_cast<unsigned>(runs_count));
  const auto move = [&]<class Word>(Word) {
    launch("move_rows", stream, grid, kThreads, 0, move_rows_kernel<Word>, static_cast<const Word*>(from),
           static_cast<Word*>(to), runs, row_bytes / static_cast<std::int64_t>(sizeof(Word)));
  };
  if (fits(from, to, row_bytes, sizeof(float4))) {
    move(float4{});
  } else if (fits(from, to, row_bytes, sizeof(float))) {
    move(0.0F);
  } else {
    move(std::uint16_t{});
  }
}

}  // namespace conclave::cuda
