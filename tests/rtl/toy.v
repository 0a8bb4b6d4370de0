// A stream register with faults, for tests of the benches' models. `fault`: 0 none, 1 the payload
// changes while it waits, 2 valid falls while it waits, 3 an item is lost, 4 ready is unknown.
module toy (
    input  wire [2:0] fault,
    input  wire       clk,
    input  wire       rst,
    input  wire [7:0] i__payload,
    input  wire       i__valid,
    output wire       i__ready,
    output reg  [7:0] o__payload,
    output reg        o__valid,
    input  wire       o__ready
);
    reg [4:0] count;
    wire last = count == 5'd31;
    assign i__ready = fault == 4 && last ? 1'bx : !o__valid || o__ready;
    always @(posedge clk) begin
        count <= count + 5'd1;
        if (i__ready) begin
            o__valid <= i__valid && !(fault == 3 && i__payload == 8'd7);
            o__payload <= i__payload;
        end else if (last) begin
            if (fault == 1) o__payload <= ~o__payload;
            if (fault == 2) o__valid <= 1'b0;
        end
        if (rst) begin
            o__valid <= 1'b0;
            count <= 5'd0;
        end
    end
endmodule
