// How tokens choose experts. One file a router in this folder; make_router() knows them by their
// name in the schema.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "configs/run.pb.h"
#include "layers/context.h"
#include "layers/moe/routing.h"
#include "layers/moe/statistics.h"
#include "layers/parameter.h"
#include "layers/tensor/sharded_tensor.h"

namespace conclave {

class Router {
 public:
  virtual ~Router() = default;

  // x [T, D] -> routing in ctx.arena, [T, K'] with the same K' for every call (K for most routers, E for
  // those whose tokens may take any number of experts); padding (ctx.is_padding) takes no expert. Adds
  // router_entropy_sum to `statistics`. In training it also takes the balance terms over the tokens they are
  // defined on (which may communicate, so ranks with T = 0 take part) and adds balance_loss_raw and
  // z_loss_raw.
  virtual Routing forward(Context& ctx, ConstTensorView x, MoeStatistics& statistics) = 0;

  // dweights [T, K]: gradient of the loss in the weights of the last forward. Returns dx [T, D], which
  // includes the gradients of the balance terms, and adds to the gradients of the parameters.
  virtual TensorView backward(Context& ctx, ConstTensorView dweights) = 0;

  // True if forward and backward enqueue their work on ctx.gpu where there is one, and add what they count to
  // ctx.routing_sums. The others are given a context without it, and compute on the host.
  virtual bool has_kernels() const { return false; }

  // On ctx.gpu, before forward: brings there what the host changes from step to step.
  virtual void renew_copies(Context&) {}

  virtual void collect_parameters(std::vector<Parameter*>& parameters) = 0;

  // Appends what the router keeps from step to step beside its parameters (a balancing bias), for
  // checkpoints. The memory lives as long as the router. Most routers have none.
  virtual void collect_state(std::vector<ShardedTensor>& state) = 0;

  // Once an optimizer step, after the update; not after a skipped step. Collective over ctx.grid->world(),
  // ranks without tokens included. Where balancing moves state rather than a loss, it does so here.
  virtual void end_step(Context& ctx) = 0;
};

// Standard deviation of a router's initial weights: moe.router_init_std, or model.init_std for auto.
double router_init_std(const config::Experiment& experiment);

// The router that moe.router names. `name` is the global prefix of its parameters ("layers.3.moe.router").
// Weights are N(0, router_init_std^2).
std::unique_ptr<Router> make_router(const config::Experiment& experiment, const std::string& name);

}  // namespace conclave
